"""Half precision, where Lightning puts it."""

from leyden.devices.precision import HalfPrecision

__all__ = ["HalfPrecision"]
