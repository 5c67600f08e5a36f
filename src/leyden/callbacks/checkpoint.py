"""Checkpoint: the mark of a callback that writes checkpoints."""

from __future__ import annotations

from typing import ClassVar

from leyden.callback import Callback


class Checkpoint(Callback):
    """Base of all callbacks that write checkpoints. They fire after all others, so that every state is up to date."""

    place: ClassVar[str] = "last"
    reads_epoch_metrics: ClassVar[bool] = True
