"""The processor, where Lightning puts it."""

from leyden.devices.accelerators import CPUAccelerator

__all__ = ["CPUAccelerator"]
