"""A checkpoint that the first process alone reads: no other has to have room for all of it, nor a way to the disk."""

from __future__ import annotations

import os
from typing import Any, final

from leyden.distributed.processes import Processes
from leyden.distributed.sharing import sendable
from leyden.errors import CheckpointError
from leyden.strategies.shards import outlined
from leyden.strategies.storage import Storage


@final
class FirstReads(Storage):
    """``inner``, read by the first process through ``reader``, which is of that one alone; the others get all but the large
    tensors, of which they get the shapes."""

    def __init__(self, inner: Storage, reader: Storage, processes: Processes) -> None:
        self.inner = inner
        self.reader = reader
        self.processes = processes

    def save(self, checkpoint: dict[str, Any], path: str | os.PathLike[str], options: Any = None) -> None:
        self.inner.save(checkpoint, path, options)

    def load(self, path: str | os.PathLike[str], weights_only: bool | None = None) -> Any:
        if not self.processes.is_first:
            content, failure = self.processes.broadcast(None)
            if failure is not None:
                raise failure
            return content
        try:
            content = self.reader.load(path, weights_only)
        except Exception as error:  # the others wait for an answer, and raise it too
            self.processes.broadcast((None, sendable(error, CheckpointError)))
            raise
        self.processes.broadcast((outlined(content), None))
        return content

    def remove(self, path: str | os.PathLike[str]) -> None:
        self.inner.remove(path)
