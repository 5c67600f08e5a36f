"""Numbers and tensors as 64-bit words, which processes add, compare and gather: what comes out has the bits of what went in."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

DTYPES = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)
"""Types of what can be logged. A type's word is its place here, so that all processes name it alike."""
LOWEST = -(2**63)
_LIMB = 32  # bits of a big number in one word: the sums of 2**31 processes fit into the rest
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_INT, _FLOAT, _TENSOR = 0, 1, 2  # what the first word of a value says; tensors' types follow


def no_words() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass
class Shares:
    """What one process brings to a value of all processes, by how it is combined with what the others bring."""

    most: list[int] = field(default_factory=list)
    """Words of which the largest of all processes counts, one by one. Every process brings as many."""
    sums: list[Tensor] = field(default_factory=list)
    """1-dim ``int64`` tensors, on any device, that are added. Every process brings as many; a shorter one is filled up by 0."""
    last: list[int] = field(default_factory=list)
    """Words of which those count that come from the highest rank that brings any."""
    listed: Tensor = field(default_factory=no_words)
    """1-dim ``int64`` tensor on the CPU. All processes' are kept, by rank."""


@dataclass
class Combined:
    """The :class:`Shares` of all processes, combined: the same on each of them."""

    most: list[int]
    sums: list[Tensor]
    last: list[int]
    listed: list[Tensor]


def limbs(number: int) -> Tensor:
    """A whole number of any size as words that may be added one by one."""
    size, sign = abs(number), -1 if number < 0 else 1
    count = -(-size.bit_length() // _LIMB)
    return torch.tensor([sign * (size >> _LIMB * at & 0xFFFFFFFF) for at in range(count)], dtype=torch.int64)


def number_of(words: Sequence[int]) -> int:
    """The number of :func:`limbs`, or of their sum."""
    return sum(word << _LIMB * at for at, word in enumerate(words) if word)


def ordered(value: float) -> int:
    """A word that is larger for a larger number. ``value`` is not NaN."""
    (word,) = struct.unpack("<q", struct.pack("<d", value))
    return int(word) if word >= 0 else int(word) ^ 0x7FFFFFFFFFFFFFFF


def float_of(word: int) -> float:
    """The number of :func:`ordered`."""
    (value,) = struct.unpack("<d", struct.pack("<q", word if word >= 0 else word ^ 0x7FFFFFFFFFFFFFFF))
    return float(value)


def bits_of(values: Tensor) -> Tensor:
    """The bits of ``values`` (1-dim), a word each, on the CPU. Waits for the device."""
    return values.detach().cpu().contiguous().view(_BITS[values.dtype.itemsize]).to(torch.int64)


def from_bits(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The values of :func:`bits_of`."""
    return words.to(_BITS[dtype.itemsize]).view(dtype)


def value_words(value: float | Tensor) -> list[int]:
    """One number, or one tensor with one element, as words."""
    if isinstance(value, Tensor):
        return [_TENSOR + DTYPES.index(value.dtype), int(bits_of(value.reshape(1))[0])]
    if isinstance(value, int):
        return [_INT, *limbs(value).tolist()]
    return [_FLOAT, ordered(value)]


def value_of(words: Sequence[int]) -> int | float | Tensor:
    """The value of :func:`value_words`, a tensor on the CPU."""
    kind = words[0]
    if kind == _INT:
        return number_of(words[1:])
    if kind == _FLOAT:
        return float_of(words[1])
    return from_bits(torch.tensor(words[1:2]), DTYPES[kind - _TENSOR]).reshape(())
