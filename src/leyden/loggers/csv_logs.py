"""The CSV logger, where Lightning puts it."""

from leyden.loggers.csv import CSVLogger, ExperimentWriter

__all__ = ["CSVLogger", "ExperimentWriter"]
