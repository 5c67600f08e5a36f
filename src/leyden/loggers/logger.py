"""The base of loggers, where Lightning puts it."""

from leyden.loggers.base import DummyExperiment, DummyLogger, Logger, rank_zero_experiment

__all__ = ["DummyExperiment", "DummyLogger", "Logger", "rank_zero_experiment"]
