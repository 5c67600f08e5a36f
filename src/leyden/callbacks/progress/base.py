"""The base of progress bars, where 1.5 to 1.9 had it."""

from leyden.callbacks.progress.progress_bar import ProgressBar
from leyden.callbacks.progress.progress_bar import ProgressBar as ProgressBarBase

__all__ = ["ProgressBar", "ProgressBarBase"]
