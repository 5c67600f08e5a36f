"""Strategy, where Lightning puts it."""

from typing import TypeVar

from leyden.strategies.base import Strategy

TBroadcast = TypeVar("TBroadcast")
TReduce = TypeVar("TReduce")

__all__ = ["Strategy", "TBroadcast", "TReduce"]
