"""No process outlives the one that started it, however that ended."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PARENT = "LEYDEN_PARENT"
_LOOKS_EVERY = 0.5  # seconds
_SET_DEATH_SIGNAL, _GET_DEATH_SIGNAL = 1, 2  # PR_SET_PDEATHSIG and PR_GET_PDEATHSIG, of linux/prctl.h
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
        _die_with_parent(signal.SIGKILL)
        _end_if_orphaned(parent)  # it may have ended a moment ago
    else:
        threading.Thread(target=_watch, args=(parent,), name="leyden: launcher", daemon=True).start()


def _die_with_parent(number: int) -> None:
    """Let Linux send signal ``number`` to this process when the one that started it ends; 0 for none. Of the calling thread."""
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number)


def _tied_by_signal() -> bool:
    """Whether it would, as the calling thread has asked for."""
    if not sys.platform.startswith("linux"):
        return False
    found = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_GET_DEATH_SIGNAL, ctypes.byref(found))
    return found.value == signal.SIGKILL


def _watch(parent: int) -> None:
    while True:
        _end_if_orphaned(parent)
        time.sleep(_LOOKS_EVERY)


def _end_if_orphaned(parent: int) -> None:
    if os.getppid() != parent:
        for say in _last_words:
            say()
        os._exit(GONE)


_last_words: list[Callable[[], None]] = []


@contextmanager
def last_words(say: Callable[[], None]) -> Iterator[None]:
    """Inside, a process that runs the command of another one again calls ``say`` before it ends with that one.

    Linux would end it at once. A thread that waits for the other's end does so instead, inside and where that is possible.
    """
    parent, by_signal = os.getppid(), RUN_AGAIN and _tied_by_signal() and hasattr(os, "pidfd_open")
    _last_words.append(say)
    if by_signal:
        other, ends = os.pidfd_open(parent), os.pipe()  # type: ignore[attr-defined,unused-ignore]  # Linux has it

        def wait() -> None:
            poll = select.poll()  # `select` knows no file above number 1,023
            for file in (other, ends[0]):
                poll.register(file, select.POLLIN)
            poll.poll()
            _end_if_orphaned(parent)

        waiting = threading.Thread(target=wait, name="leyden: launcher", daemon=True)
        waiting.start()
        _die_with_parent(0)
    try:
        yield
    finally:
        if by_signal:
            _die_with_parent(signal.SIGKILL)
            os.write(ends[1], b"x")
            waiting.join()
            for file in (other, *ends):
                os.close(file)
        _last_words.remove(say)


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
