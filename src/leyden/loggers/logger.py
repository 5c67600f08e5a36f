"""The base of loggers, where Lightning puts it."""

from leyden.loggers.base import DummyExperiment, DummyLogger, Logger, rank_zero_experiment
from leyden.loggers.merging import merge_dicts

__all__ = ["DummyExperiment", "DummyLogger", "Logger", "merge_dicts", "rank_zero_experiment"]
