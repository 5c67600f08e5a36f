"""Strategy, where Lightning puts it."""

from leyden.strategies.base import Strategy

__all__ = ["Strategy"]
