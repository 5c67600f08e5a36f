"""Every global random generator's state: taken, put back, and kept safe around what must not disturb it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from leyden.checkpoint.format import decode, encode


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's global generators, and of every CUDA or MPS device in use.

    Loads with ``weights_only=True``.
    """
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    state = as_plain(
        random.getstate(),
        np.random.get_state(legacy=False),
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if in_use else None,
    )
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def as_plain(python: Any, numpy: Any, cpu: torch.Tensor, cuda: list[torch.Tensor] | None) -> dict[str, Any]:
    """What the generators' own functions returned, in the form of :func:`random_state`."""
    version, words, gauss = python
    state: dict[str, Any] = {
        "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        "numpy": encode(numpy),
        "torch": cpu,
    }
    if cuda is not None:
        state["cuda"] = cuda
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what :func:`random_state` returned. Devices that this machine lacks are left out."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(decode(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        for index, device in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device.cpu(), index)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


@contextmanager
def preserved_random_state(devices: bool = True) -> Iterator[None]:
    """Whatever is drawn inside, the global generators go on outside as if nothing had been; with ``devices``, theirs too."""
    python, numpy, cpu = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    in_use = devices and torch.cuda.is_available() and torch.cuda.is_initialized()
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
