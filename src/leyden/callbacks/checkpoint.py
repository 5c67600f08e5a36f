"""Checkpoint: the mark of a callback that writes checkpoints, and where it finds those that there are."""

import os
from typing import ClassVar

from leyden.callback import Callback
from leyden.checkpoint.files import absolute
from leyden.checkpoint.store import CheckpointStore, FileStore
from leyden.loggers.base import run_folder_of
from leyden.state.run import Run


class Checkpoint(Callback):
    """Base of all callbacks that write checkpoints. They fire after all others, so that every state is up to date."""

    leyden_phase: ClassVar[str] = "checkpoint"
    leyden_reads_epoch_metrics: ClassVar[bool] = True
    leyden_replaces_default: ClassVar[bool] = True
    """Whether a trainer that has it needs no ModelCheckpoint of its own."""


def usual_folder(run: Run) -> str:
    """Where checkpoints go where nobody says otherwise: beside what the first logger writes."""
    root = run.default_root_dir
    return absolute(os.path.join(run_folder_of(run.loggers[0], root) if run.loggers else root, "checkpoints"))


def store_of(run: Run) -> CheckpointStore:
    """Where the checkpoints of ``run`` lie. Its own from now on: what it holds, nobody else lets go."""
    return FileStore(run.strategy.processes, run.strategy.checkpoint_io)
