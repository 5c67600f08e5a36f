"""SingleDeviceStrategy, where Lightning puts it."""

from leyden.strategies.single import SingleDeviceStrategy

__all__ = ["SingleDeviceStrategy"]
