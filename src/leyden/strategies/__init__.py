"""Strategies, by their public names."""

from leyden.strategies.base import Strategy
from leyden.strategies.single import SingleDeviceStrategy

__all__ = ["SingleDeviceStrategy", "Strategy"]
