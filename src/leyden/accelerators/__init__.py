"""Accelerators, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.accelerators.accelerator import Accelerator
from leyden.accelerators.cpu import CPUAccelerator
from leyden.accelerators.cuda import CUDAAccelerator, find_usable_cuda_devices
from leyden.accelerators.mps import MPSAccelerator
from leyden.errors import absent

__all__ = ["Accelerator", "CPUAccelerator", "CUDAAccelerator", "MPSAccelerator", "find_usable_cuda_devices"]

_LATER = {"XLAAccelerator": "XLA is out of scope."}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
