"""How a checkpoint stands on the disk: one file, or whatever else a strategy needs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, final

from leyden.distributed.broadcast import from_first
from leyden.distributed.processes import Processes

if TYPE_CHECKING:
    from leyden.checkpoint.files import CheckpointIO


class Storage(ABC):
    """Called on every process; who of them touches the disk is its own affair."""

    @abstractmethod
    def save(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], options: Any = None) -> None:
        """Write ``checkpoint``, whole or not at all."""

    @abstractmethod
    def load(self, path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        """Read a checkpoint, onto the CPU."""

    @abstractmethod
    def remove(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint."""


@final
class OneFile(Storage):
    """One file with the whole state, which the first process writes, reads and removes."""

    def __init__(self, io: CheckpointIO, processes: Processes) -> None:
        self.io = io
        self.processes = processes

    def save(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], options: Any = None) -> None:
        if self.processes.is_first:
            self.io.save_checkpoint(checkpoint, path, storage_options=options)
        self.processes.barrier("checkpoint written")

    def load(self, path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        # a CheckpointIO of the user's may know no such argument
        asked = {} if weights_only is None else {"weights_only": weights_only}
        return from_first(self.processes, lambda: self.io.load_checkpoint(path, **asked))

    def remove(self, path: str | os.PathLike[str]) -> None:
        if self.processes.is_first:
            self.io.remove_checkpoint(path)
