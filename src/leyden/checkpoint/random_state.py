"""Every global random generator's state: taken, put back, and kept safe around what must not disturb it."""

from __future__ import annotations

import _random
import ctypes
import random
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from leyden.checkpoint.format import decode, encode


class Drawn(NamedTuple):
    """The states of the global generators as their own functions return them, and not yet in the form of a checkpoint."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: list[Tensor] | None
    mps: Tensor | None

    def plain(self) -> dict[str, Any]:
        """In the form of :func:`random_state`."""
        state = as_plain(self.python, self.numpy, self.torch, self.cuda)
        return state if self.mps is None else {**state, "mps": self.mps}


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's global generators, and of every CUDA or MPS device in use.

    Loads with ``weights_only=True``.
    """
    return _drawn(random.getstate(), np.random.get_state(legacy=False)).plain()


def _drawn(python: Any, numpy: Any) -> Drawn:
    return Drawn(
        python,
        numpy,
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        torch.mps.get_rng_state() if _has_mps() else None,
    )


@cache
def _has_mps() -> bool:
    return torch.backends.mps.is_available()


class RandomStates:
    """The states of the global generators, batch after batch.

    Python and NumPy copy a state word by word, which takes longer than reading a small batch: theirs is taken again where a look
    at the memory tells that somebody drew, or cannot tell. Who draws moves the position, or makes all words anew, and who seeds
    makes them anew too: so the position and a few words are looked at. That many come out the same once in 2**256 times.
    """

    def __init__(self) -> None:
        self._python: Any = None
        self._numpy: Any = None
        self._at_python: Any = None
        self._at_numpy: Any = None

    def take(self) -> Drawn:
        """Where they stand now."""
        python, numpy = mark_of_python(), mark_of_numpy()
        if python is None or python != self._at_python:
            self._python, self._at_python = random.getstate(), python
        if numpy is None or numpy != self._at_numpy or self._numpy["has_gauss"]:  # a draw takes that, and leaves the words
            self._numpy, self._at_numpy = np.random.get_state(legacy=False), numpy
        return _drawn(self._python, self._numpy)


_WORDS = 624  # of a Mersenne Twister, and one number that says how many of them are used up
_Looked = ctypes.c_char * (4 * 9)  # at eight words, and that number


def mark_of_python() -> tuple[bytes, Any] | None:
    """By what is seen that somebody drew from Python's generator; ``None`` where its memory does not tell."""
    generator = random.__dict__.get("_inst")
    if type(generator) is not random.Random or not _knows_python():
        return None
    return _Looked.from_address(id(generator) + object.__basicsize__).raw, generator.__dict__["gauss_next"]


def mark_of_numpy() -> tuple[int, bytes] | None:
    """The same of NumPy's, but for a normal number that it has in store."""
    source = np.random.mtrand.__dict__["_rand"]._bit_generator
    if type(source) is not np.random.MT19937 or not _knows_numpy():
        return None
    address: int = source.ctypes.state_address
    return address, _Looked.from_address(address + 4 * (_WORDS - 8)).raw


@cache
def _knows_python() -> bool:
    """Whether this Python keeps its generator's position and words behind the head of the object, as CPython does."""
    if sys.implementation.name != "cpython" or _random.Random.__basicsize__ < object.__basicsize__ + 4 * (_WORDS + 1):
        return False
    probe = random.Random(1)
    probe.random()
    position, *words = array("I", ctypes.string_at(id(probe) + object.__basicsize__, 4 * (_WORDS + 1)))
    return bool((*words, position) == probe.getstate()[1])


@cache
def _knows_numpy() -> bool:
    """Whether this NumPy keeps the words, and then the position, where it says that the state is."""
    probe = np.random.RandomState(1)
    probe.random_sample()
    state: Any = probe.get_state(legacy=False)["state"]
    *words, position = array("I", ctypes.string_at(probe._bit_generator.ctypes.state_address, 4 * (_WORDS + 1)))
    return bool(words == state["key"].tolist() and position == state["pos"])


def as_plain(python: Any, numpy: Any, cpu: Tensor, cuda: list[Tensor] | None) -> dict[str, Any]:
    """What the generators' own functions returned, in the form of :func:`random_state`."""
    version, words, gauss = python
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": encode(numpy),
        "torch": cpu,
    }
    if cuda is not None:
        state["cuda"] = cuda
        if torch.cuda.is_initialized():
            state["cuda_at"] = torch.cuda.current_device()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned. Devices that this machine lacks are left out."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(decode(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        for index, device in enumerate(by_device(state)[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device.cpu(), index)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def by_device(state: dict[str, Any]) -> list[Tensor]:
    """The states of CUDA's generators. The device that trained had one number there, and may have another here."""
    states, there = list(state["cuda"]), state.get("cuda_at")
    if there is None or there >= len(states):
        return states
    here = torch.cuda.current_device()
    states += [states[there]] * (here + 1 - len(states))
    states[here], states[there] = states[there], states[here]
    return states


@contextmanager
def preserved_random_state(devices: bool = True) -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on outside as if nothing had been; with ``devices``, theirs too."""
    python, numpy, cpu = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    in_use = devices and torch.cuda.is_initialized()
    cuda = torch.cuda.get_rng_state_all() if in_use else []
    mps = torch.mps.get_rng_state() if devices and torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)
