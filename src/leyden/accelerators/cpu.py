"""The processor, where Lightning puts it."""

from leyden.devices.accelerators import CPUAccelerator, get_cpu_stats

__all__ = ["CPUAccelerator", "get_cpu_stats"]
