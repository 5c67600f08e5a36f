"""Accelerators, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.accelerators.accelerator import Accelerator
from leyden.accelerators.cpu import CPUAccelerator
from leyden.accelerators.cuda import CUDAAccelerator, find_usable_cuda_devices
from leyden.accelerators.mps import MPSAccelerator
from leyden.devices.accelerators import AcceleratorRegistry
from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent

__all__ = [
    "Accelerator",
    "AcceleratorRegistry",
    "CPUAccelerator",
    "CUDAAccelerator",
    "MPSAccelerator",
    "find_usable_cuda_devices",
]


def __getattr__(name: str) -> Any:
    if name == "GPUAccelerator":  # 1.x's word
        return CUDAAccelerator
    return absent(__name__, name, __all__)


stand_in_addresses(__name__)
