"""Progress bars."""

from __future__ import annotations

from leyden.callbacks.progress.progress_bar import ProgressBar
from leyden.callbacks.progress.progress_bar import ProgressBar as ProgressBarBase
from leyden.callbacks.progress.rich_progress import RichProgressBar, RichProgressBarTheme
from leyden.callbacks.progress.tqdm_progress import TQDMProgressBar

__all__ = ["ProgressBar", "ProgressBarBase", "RichProgressBar", "RichProgressBarTheme", "TQDMProgressBar"]
