"""The base of loggers, where Lightning puts it."""

from leyden.loggers.base import DummyLogger, Logger

__all__ = ["DummyLogger", "Logger"]
