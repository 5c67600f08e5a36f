"""Apple's devices, where Lightning puts them."""

from leyden.devices.accelerators import MPSAccelerator
from leyden.devices.accelerators import get_mps_stats as get_device_stats

__all__ = ["MPSAccelerator", "get_device_stats"]
