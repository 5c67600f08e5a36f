"""The base of precisions, where Lightning puts it."""

from leyden.devices.precision import Precision

__all__ = ["Precision"]
