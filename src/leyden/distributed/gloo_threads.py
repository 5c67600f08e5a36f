"""The threads in which gloo does what it was asked for, when the interpreter ends.

One of them lets go of an exchange's tensors a moment after whoever waited for the exchange goes on, and needs the interpreter's
lock for that, because Python has seen these tensors. On a busy machine that moment may be longer than what is left of the
process, and a thread of C++ that asks an ending interpreter (before Python 3.14) for its lock aborts the process: "terminate
called without an active exception", exit code 134, after a run in which nothing went wrong. Destroying the group does not end
the threads: a wrapped module or a name of the user's may hold it.
"""

from __future__ import annotations

import atexit
import functools
import os
import time
from contextlib import suppress
from pathlib import Path

_NAME = "pt_gloo_runloop"  # as PyTorch calls them, since 2.6
_TASKS = Path("/proc/self/task")
_BETWEEN = 0.001  # seconds, in which the interpreter's lock is free for them
_TAKES = 10.0
"""Seconds that they may need at most: one that is in the middle of something will not end it."""
_ELSEWHERE = 0.05
"""Seconds that they are given where no system says what they do."""


@functools.cache
def rest_at_exit() -> None:
    """When the interpreter ends, wait until no thread of gloo has anything to do. What is registered later comes before."""
    atexit.register(_let_rest)


def _let_rest() -> None:
    if not _TASKS.exists():
        time.sleep(_ELSEWHERE)
        return
    until, asleep = time.monotonic() + _TAKES, 0
    while asleep < 2 and time.monotonic() < until:  # twice: one that waits for the interpreter's lock sleeps too
        time.sleep(_BETWEEN)
        asleep = 0 if _at_work() else asleep + 1


def _at_work() -> bool:
    for task in os.listdir(_TASKS):
        with suppress(OSError):  # it has ended
            name, _, state = Path(_TASKS, task, "stat").read_text().partition(" (")[2].rpartition(") ")
            if name == _NAME and not state.startswith("S"):
                return True
    return False
