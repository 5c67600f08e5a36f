"""No process outlives the one that started it, however that ended."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

_PARENT = "LEYDEN_PARENT"
_LOOKS_EVERY = 0.5  # seconds
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, of linux/prctl.h
GONE = 137
"""The exit code of a process whose launcher is gone: that of a SIGKILL."""


def word_for_a_child() -> dict[str, str]:
    """What a process that is started from here has to find in its environment, so that it ends with this one."""
    # Linux ends a child with the thread that started it: only the main one lives as long as the process.
    by_thread = threading.current_thread() is not threading.main_thread()
    return {_PARENT: f"{os.getpid()}{' watched' if by_thread else ''}"}


def tie_to(parent: int, *, watched: bool = False) -> None:
    """End this process when ``parent``, which started it, has ended. With ``watched`` a thread looks now and then."""
    if sys.platform.startswith("linux") and not watched:
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        _end_if_orphaned(parent)  # it may have ended a moment ago
    else:
        threading.Thread(target=_watch, args=(parent,), name="leyden: launcher", daemon=True).start()


def _watch(parent: int) -> None:
    while True:
        _end_if_orphaned(parent)
        time.sleep(_LOOKS_EVERY)


def _end_if_orphaned(parent: int) -> None:
    if os.getppid() != parent:
        os._exit(GONE)


def _tie_as_told() -> bool:
    """Whether a process of ours started this one by running the command again. Read once: its own children are not meant."""
    pid, _, watched = os.environ.pop(_PARENT, "").partition(" ")
    if not pid:
        return False
    if os.getppid() != int(pid):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            os._exit(GONE)
        return False  # started by something in between, that has handed the variable on
    tie_to(int(pid), watched=bool(watched))
    return True


RUN_AGAIN = _tie_as_told()
"""Whether this process runs the command of another one once more. Settled when the package is imported."""
OTHERS: list[subprocess.Popen[bytes]] = []
"""The processes that were started from here to run this command again."""
START = os.getcwd()
"""Where this process stood when the package was imported."""


def runs_again() -> bool:
    """Whether this is one of the processes in which one command runs: the first, or one that the first has started."""
    return RUN_AGAIN or bool(OTHERS)
