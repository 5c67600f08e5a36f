"""Mixed precision, where Lightning puts it."""

from leyden.devices.precision import MixedPrecision

__all__ = ["MixedPrecision"]
