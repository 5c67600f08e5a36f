"""The processors of a machine, shared out among the processes that are started on it."""

from __future__ import annotations

import os

import torch

_VARIABLE = "OMP_NUM_THREADS"


def share_threads(processes: int) -> dict[str, str]:
    """Let torch use this process's share of the processors, and return the variable that says so to the others.

    What the user has chosen, by ``OMP_NUM_THREADS`` or :func:`torch.set_num_threads`, is left, unless it is more than the share.
    """
    if os.environ.get(_VARIABLE):
        return {}
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = max(1, there // processes)
    torch.set_num_threads(min(torch.get_num_threads(), each))
    return {_VARIABLE: str(each)}
