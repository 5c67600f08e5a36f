"""The position in the training data: open a loader at its start, or at the batch where a run was cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class Position:
    """Opens iterators over one loader. The loader itself is neither rebuilt nor changed."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def open(self, start: int) -> Iterator[Any]:
        """An iterator whose next batch is batch ``start`` of the epoch."""
        iterator: Iterator[Any] = iter(self.loader)
        for _ in range(start):
            next(iterator)
        return iterator
