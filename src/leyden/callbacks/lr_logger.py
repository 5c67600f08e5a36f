"""LearningRateMonitor, where 0.8 to 1.1 had it, and under its name of then."""

from leyden.callbacks.lr_monitor import LearningRateMonitor
from leyden.callbacks.lr_monitor import LearningRateMonitor as LearningRateLogger

__all__ = ["LearningRateLogger", "LearningRateMonitor"]
