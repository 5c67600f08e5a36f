"""The logger of mlflow, where 0.5 to 0.7 had it."""

from leyden.loggers.mlflow import MLFlowLogger

__all__ = ["MLFlowLogger"]
