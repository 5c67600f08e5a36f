"""The checksum of a stream into which PyTorch saves tensors, without reading what PyTorch has summed already."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Any

import torch

_POLYNOMIAL = 0xEDB88320  # of CRC-32, its bits in reverse, as zlib has them
_MUCH = 1 << 16  # bytes of a part that PyTorch's own sum is waited for
_AFTER = {16: "<4sIII", 24: "<4sIQQ"}  # what follows a part of a zip file: a mark, its CRC-32, its size twice


class Checksum:
    """The CRC-32 of what :meth:`add` was given, piece by piece.

    :func:`torch.save` writes zip files: behind each large part stands the CRC-32 of it, which is taken in place of a second one.
    """

    def __init__(self) -> None:
        self._crc = 0
        self._due = 0  # bytes of a large part that are not in the sum yet
        self._believes = _believes()
        self.is_known = True
        """Whether no large part went by whose sum did not follow: else the file has to be read."""

    @property
    def value(self) -> int:
        return self._crc

    def add(self, data: Any) -> None:
        size = memoryview(data).nbytes
        if self._due:
            stated = _stated(data, size, self._due)
            if stated is None:
                self.is_known = False
            else:
                self._crc = joined(self._crc, stated, self._due)
            self._due = 0
        if size >= _MUCH and self._believes:
            self._due = size
        else:
            self._crc = zlib.crc32(data, self._crc)

    def end(self) -> None:
        """Nothing follows."""
        self.is_known = self.is_known and not self._due


def joined(first: int, second: int, size: int) -> int:
    """The CRC-32 of two pieces in a row, from those of each; ``size`` is that of the second in bytes.

    The first one's is multiplied by x to the power of the bits of the second, modulo the polynomial: the method of zlib's
    ``crc32_combine``, which Python does not have.
    """
    return _times(_power(size), first) ^ second


@functools.lru_cache(maxsize=1024)
def _power(size: int) -> int:
    """x to the power of 8 * ``size``."""
    power, square = 1 << 31, 1 << 23  # x to the power of 0, and of 8; the highest bit is the lowest power
    while size:
        if size & 1:
            power = _times(square, power)
        square, size = _times(square, square), size >> 1
    return power


def _times(one: int, other: int) -> int:
    product, bit = 0, 1 << 31
    while one:
        if one & bit:
            product ^= other
            one ^= bit
        bit >>= 1
        other = other >> 1 ^ _POLYNOMIAL if other & 1 else other >> 1
    return product


def _stated(data: Any, size: int, part: int) -> int | None:
    """The CRC-32 of the ``part`` bytes before, where ``data`` says it."""
    form = _AFTER.get(size)
    if form is None:
        return None
    mark, crc, *sizes = struct.unpack(form, data)
    return crc if mark == b"PK\x07\x08" and sizes == [part, part] else None


def _believes() -> bool:
    """Whether torch computes the sums that it writes: the user may have switched that off."""
    asked = getattr(torch.serialization, "get_crc32_options", None)
    return asked is None or bool(asked())
