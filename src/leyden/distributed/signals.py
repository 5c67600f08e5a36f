"""Signals while a verb runs: noted, to be obeyed at the next safe place; the handlers that stood before are put back."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch.distributed as dist

TERMINATION = ("SIGTERM", "SIGUSR1")
EXIT_CODE = 143
PRESSED_EXIT_CODE = 130  # what a shell shows for a process that a Ctrl-C has ended
_HANDLERS_TAKE = 0.3
"""Seconds after which a handler that has not run is taken to be held up by an exchange."""
_LEAVING_TAKES = 2.0
"""Seconds that the main thread has to hear of a second Ctrl-C."""
_WAKE = 0  # no signal has this number

PRESSED_AGAIN = "Ctrl-C was pressed again"
"""What a :class:`KeyboardInterrupt` says that shall leave the run, too. Python's exit code
goes by the class, so that it is none of its own."""
_Handler = Callable[[int, FrameType | None], Any] | int | None


class _Arrivals:
    """The signals that have come, each obeyed once: by its handler, or by a thread while the handler cannot run.

    Python runs handlers in the main thread, and not before that has come back from an exchange with other processes, one of
    which may never answer. The number of a signal is written into a pipe at once, though, which somebody else can read.
    """

    opened: _Arrivals | None = None
    """The one that has the pipe."""

    def __init__(self, note: Callable[[int], None]) -> None:
        self._note = note
        self._seen: set[int] = set()
        self._gives_up = False  # Ctrl-C was pressed again, and the main thread has to hear of it
        self._pid = os.getpid()
        self._numbers: frozenset[int] = frozenset()
        self._ends: tuple[int, int] | None = None  # of the pipe
        self._lock = threading.RLock()  # a handler may interrupt another one
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._stand_in, name="leyden: signals", daemon=True)

    def handler(self, number: int, frame: FrameType | None) -> None:
        if self._ends is None or os.getpid() != self._pid:
            self._obey(number)
        else:
            self._read(self._ends[0])
        if self._gives_up:
            self._gives_up = False
            raise KeyboardInterrupt(PRESSED_AGAIN)

    def _obey(self, number: int) -> None:
        if number not in self._seen:
            self._seen.add(number)
            if os.getpid() == self._pid:  # a fork (a loader's worker) works on for whoever finishes something
                self._note(number)
        elif number == signal.SIGINT:
            self._gives_up = True
        else:
            several = dist.is_available() and dist.is_initialized()
            who = f"process {dist.get_rank()} of {dist.get_world_size()}" if several else "this process"
            text = f"{signal.Signals(number).name} arrived again: {who} ends now, without a save.\n"
            with suppress(OSError):
                os.write(2, text.encode())
            os._exit(EXIT_CODE)

    def _read(self, reads: int) -> None:
        with self._lock, suppress(BlockingIOError):
            for number in os.read(reads, 4096):
                if number in self._numbers:
                    self._obey(number)

    def open(self, numbers: Iterable[int]) -> None:
        """From now on a thread obeys ``numbers`` where the main one cannot; not if somebody else reads such a pipe."""
        reads, writes = os.pipe()
        os.set_blocking(reads, False)
        os.set_blocking(writes, False)
        before = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            os.close(reads)
            os.close(writes)
            return
        self._numbers, self._ends, _Arrivals.opened = frozenset(numbers), (reads, writes), self
        self._thread.start()

    def close(self) -> None:
        if self._ends is None or os.getpid() != self._pid:
            return
        signal.set_wakeup_fd(-1)
        (reads, writes), _Arrivals.opened = self._ends, None
        self._closing.set()
        with suppress(BlockingIOError):
            os.write(writes, bytes([_WAKE]))
        self._thread.join()
        self._read(reads)
        self._ends = None
        os.close(reads)
        os.close(writes)

    def _stand_in(self) -> None:
        leave_to_main_thread()
        assert self._ends is not None
        reads, _ = self._ends
        while not self._closing.is_set():
            select.select([reads], [], [])
            if self._closing.wait(_HANDLERS_TAKE):
                return
            self._read(reads)
            if self._gives_up and not self._closing.wait(_LEAVING_TAKES) and self._gives_up:
                os._exit(PRESSED_EXIT_CODE)


def leave_to_main_thread() -> None:
    """Called first in a thread of our own: signals arrive in the main one, and end no call here."""
    with suppress(AttributeError, ValueError, OSError):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _forget_pipe() -> None:
    """A fork (a loader's worker) has the pipe too, and its signals are not those of the process that reads it."""
    if _Arrivals.opened is not None:
        _Arrivals.opened = None
        with suppress(ValueError):
            signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pipe)


def is_default(number: int, standing: Any) -> bool:
    """Whether ``standing`` is the handler of ``number`` that is there where nobody has set one of his own.

    In a notebook's cell that awaits something, a Ctrl-C only cancels what is awaited, and that is nothing while a run goes on.
    """
    if standing is signal.SIG_DFL:
        return True
    awaits = getattr(standing, "__module__", "") == "ipykernel.ipkernel"
    return number == signal.SIGINT and (standing is signal.default_int_handler or awaits)


@contextmanager
def noted(note: Callable[[int], None], *, interrupts: bool, more: Iterable[str] = ()) -> Iterator[None]:
    """Call ``note`` with the number of a SIGTERM or SIGUSR1, or one of those named in ``more`` (and with ``interrupts`` of a
    Ctrl-C), that arrives inside.

    A second SIGTERM ends the process at once, a second Ctrl-C raises :class:`KeyboardInterrupt` where it is. A handler of
    the user's own is left in its place. Outside the main thread, where handlers cannot be set, nothing is done. Among several
    processes ``note`` is called in another thread while the main one waits for an exchange.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrivals = _Arrivals(note)
    handler = arrivals.handler
    before: dict[int, _Handler] = {}
    names = dict.fromkeys([*TERMINATION, *more, *(["SIGINT"] if interrupts else [])])
    for name in names:
        number = getattr(signal, name, None)
        if number is None:
            continue  # Windows has no SIGUSR1
        standing = signal.getsignal(number)
        if is_default(number, standing):
            before[number] = standing
            signal.signal(number, handler)
    if before and dist.is_available() and dist.is_initialized() and sys.platform != "win32":
        arrivals.open(before)
    try:
        yield
    finally:
        for number, standing in before.items():
            if signal.getsignal(number) == handler:
                signal.signal(number, standing)
        arrivals.close()


def say_at_once(write: Callable[[str], None], text: str) -> None:
    """``write`` a line from a signal handler and flush it: the interpreter may be in the middle of writing another."""
    try:
        write(text)
        sys.stdout.flush()
    except RuntimeError:  # "reentrant call": a stream must not be entered again in the same thread
        with suppress(OSError):
            os.write(1, f"\n{text}\n".encode())
    except (OSError, ValueError, AttributeError):  # a standard output that is closed, full or missing
        pass


def first_words(number: int, doing: str, saves: bool) -> str:
    """What is said as soon as a signal is there; ``doing`` is what is finished first, ``saves`` whether the run is then saved."""
    if number == signal.SIGINT:
        return f"finishing this {doing}; press Ctrl-C again to stop now"
    name = signal.Signals(number).name
    then = "the run is saved and ended" if saves else "it ends"
    return f"{name} arrived: finishing this {doing}, then {then}. A second {name} ends it now."


def in_notebook() -> bool:
    """Whether the code runs in IPython, where ending the process would take the user's session along."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
