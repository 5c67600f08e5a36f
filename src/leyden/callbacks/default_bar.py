"""The progress bar of a Trainer that was given none."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from leyden.callbacks.progress.progress_bar import ProgressBar
from leyden.callbacks.progress.rich_progress import RichProgressBar
from leyden.callbacks.progress.screen import is_notebook
from leyden.callbacks.progress.tqdm_progress import TQDMProgressBar


def default_bar() -> ProgressBar:
    """rich's, or one of plain text in a notebook where rich could not draw: that takes ipywidgets."""
    return TQDMProgressBar() if is_notebook(sys.stdout) and find_spec("ipywidgets") is None else RichProgressBar()
