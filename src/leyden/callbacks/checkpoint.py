"""Checkpoint: the mark of a callback that writes checkpoints, and where it finds those that there are."""

import os
from typing import Any, ClassVar

from leyden.callback import Callback
from leyden.checkpoint.files import absolute, read_folder
from leyden.checkpoint.store import CheckpointStore, FileStore
from leyden.loggers.base import run_folder_of
from leyden.state.run import Run


class Checkpoint(Callback):
    """Base of all callbacks that write checkpoints. They fire after all others, so that every state is up to date."""

    leyden_phase: ClassVar[str] = "checkpoint"
    leyden_reads_epoch_metrics: ClassVar[bool] = True
    leyden_replaces_default: ClassVar[bool] = True
    """Whether a trainer that has it needs no ModelCheckpoint of its own."""


class GivenFolder:
    """``callback.dirpath``: the folder that was given, in the constructor or afterwards, or that the run has chosen."""

    def __get__(self, callback: Any, owner: type) -> Any:
        return self if callback is None else vars(callback)["dirpath"]

    def __set__(self, callback: Any, folder: Any) -> None:
        vars(callback)["dirpath"] = callback._given_dirpath = read_folder("dirpath", folder)


def usual_folder(run: Run) -> str:
    """Where checkpoints go where nobody says otherwise: beside what the first logger writes."""
    root = run.default_root_dir
    return absolute(os.path.join(run_folder_of(run.loggers[0], root) if run.loggers else root, "checkpoints"))


def store_of(run: Run) -> CheckpointStore:
    """Where the checkpoints of ``run`` lie. Its own from now on: what it holds, nobody else lets go."""
    return FileStore(run.strategy.processes, run.strategy.checkpoint_io)
