"""The logger of comet, where 0.5 to 0.7 had it."""

from leyden.loggers.comet import CometLogger

__all__ = ["CometLogger"]
