"""Double precision, where Lightning puts it."""

from leyden.devices.double_module import LightningDoublePrecisionModule
from leyden.devices.precision import DoublePrecision

__all__ = ["DoublePrecision", "LightningDoublePrecisionModule"]
