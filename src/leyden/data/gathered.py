"""What each process has predicted, put together in the order of the data."""

from __future__ import annotations

from typing import Any

from leyden.data.source import Source
from leyden.distributed.processes import Processes

AT_ONCE = 32
"""Batches of each process that travel together, which bounds what is in memory twice."""


def in_turn(source: Source, mine: list[list[Any]]) -> list[list[Any]]:
    """For each loader what all processes made of its batches, in its order, on every process. All of them call it.

    Of a loader that is not shared out, of which each process reads all that it has, what this process made.
    """
    processes = source.share.processes
    if processes.alone:
        return mine
    pairs = zip(source.readers, mine, strict=True)
    return [_interleaved(processes, part) if reader.is_shared else part for reader, part in pairs]


def _interleaved(processes: Processes, mine: list[Any]) -> list[Any]:
    """Item ``i`` of process ``r`` is number ``i * world + r`` of the whole."""
    most = max(processes.gather_objects(len(mine)))
    whole: list[Any] = []
    for start in range(0, most, AT_ONCE):
        parts = processes.gather_objects(mine[start : start + AT_ONCE])
        whole += [part[at] for at in range(max(map(len, parts))) for part in parts if at < len(part)]
    return whole
