"""Double precision, where Lightning puts it."""

from leyden.devices.precision import DoublePrecision

__all__ = ["DoublePrecision"]
