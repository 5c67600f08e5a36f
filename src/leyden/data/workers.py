"""A loader's worker processes: how many there may be, and what is heard when they end."""

from __future__ import annotations

import os

from leyden.errors import InvalidOption

MOST_WORKER_ERRORS = 64  # one for each worker that a signal ended, at the most


def is_of_worker(error: RuntimeError) -> bool:
    """Whether PyTorch says that a loader's worker process has ended."""
    return "DataLoader worker" in str(error)


def suggested_max_num_workers(local_world_size: int) -> int:
    """Worker processes for each loader of a process, when ``local_world_size`` processes share this machine's processors.

    One processor is left for the process itself. Raises :class:`InvalidOption` for fewer than one process.
    """
    if local_world_size < 1:
        raise InvalidOption("local_world_size", local_world_size, "a number of processes >= 1")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return max(1, usable // local_world_size - 1)
