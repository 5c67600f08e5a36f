"""The checkpoint callback of a Trainer that was given none."""

from __future__ import annotations

from leyden.callbacks.model_checkpoint import ModelCheckpoint
from leyden.types import Path


def default_checkpoint(dirpath: Path | None = None) -> ModelCheckpoint:
    """What a Trainer without a checkpoint callback gets.

    With a validation loss among the metrics (see :func:`leyden.callbacks.monitor.validation_loss`) the best file by it and
    ``last.ckpt`` are kept, else the newest under both names, ``epoch=0-step=100.ckpt`` and ``last.ckpt``. Which of the two is
    decided at the first save that finds such a loss.
    """
    callback = ModelCheckpoint(dirpath, save_last=True)
    callback.choose_monitor()
    return callback
