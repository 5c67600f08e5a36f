"""Checkpoint: the mark of a callback that writes checkpoints, and where it finds those that there are."""

from typing import ClassVar

from leyden.callback import Callback
from leyden.checkpoint.store import CheckpointStore, FileStore
from leyden.state.run import Run


class Checkpoint(Callback):
    """Base of all callbacks that write checkpoints. They fire after all others, so that every state is up to date."""

    leyden_phase: ClassVar[str] = "checkpoint"
    leyden_reads_epoch_metrics: ClassVar[bool] = True


def store_of(run: Run) -> CheckpointStore:
    """Where the checkpoints of ``run`` lie. Its own from now on: what it holds, nobody else lets go."""
    return FileStore(run.strategy.processes, run.strategy.checkpoint_io)
