"""Apple's devices, where Lightning puts them."""

from leyden.devices.accelerators import MPSAccelerator

__all__ = ["MPSAccelerator"]
