"""How a checkpoint stands on the disk: one file, or a folder into which every process writes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, final

from leyden.checkpoint.files import local_path
from leyden.checkpoint.folders import is_folder
from leyden.distributed.broadcast import from_first
from leyden.distributed.processes import Processes
from leyden.errors import InvalidType

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


def storage_of(io: CheckpointIO, processes: Processes) -> Storage:
    """The storage that the user's ``io`` is for."""
    return Sharded(io, processes) if io.leyden_sharded else OneFile(io, processes)


@final
class OneFile(Storage):
    """One file with the whole state, which the first process writes, reads and removes."""

    def __init__(self, io: CheckpointIO, processes: Processes) -> None:
        self.io = io
        self.processes = processes

    def save(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], options: Any = None) -> None:
        self.processes.first(lambda: self.io.save_checkpoint(checkpoint, path, storage_options=options), f"{path} written")

    def load(self, path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        # a CheckpointIO of the user's may know no such argument
        asked = {} if weights_only is None else {"weights_only": weights_only}
        return from_first(self.processes, lambda: self.io.load_checkpoint(path, **asked))

    def remove(self, path: str | os.PathLike[str]) -> None:
        if self.processes.is_first:
            self.io.remove_checkpoint(path)


@final
class Sharded(Storage):
    """A folder, into which every process writes its part of the tensors; files of :class:`OneFile` are read too.

    Any state of a module and of optimizers will do that consists of tensors, or of DTensors. An ``io`` that writes in the
    background (:class:`AsyncCheckpointIO`) does so with folders too.
    """

    def __init__(self, io: CheckpointIO, processes: Processes) -> None:
        self.io = io
        self.processes = processes

    def save(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], options: Any = None) -> None:
        from leyden.checkpoint.shards import group_of_all, write_folder

        if options is not None:
            raise InvalidType("storage_options", options, "None: a sharded checkpoint is written by PyTorch, and takes none")
        place, group = local_path(os.fspath(path)), None if self.processes.alone else group_of_all()
        self.io.leyden_write(write_folder, checkpoint, place, group)

    def load(self, path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        from leyden.checkpoint.shards import read_folder

        self.io.leyden_settle()
        place = local_path(os.fspath(path))
        if self.processes.once(lambda: is_folder(place)):
            return from_first(self.processes, lambda: read_folder(place, "cpu", weights_only))
        return OneFile(self.io, self.processes).load(path, weights_only)

    def remove(self, path: str | os.PathLike[str]) -> None:
        if self.processes.is_first:
            self.io.remove_checkpoint(path)
