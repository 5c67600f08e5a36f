"""Signals while a verb runs: noted, to be obeyed at the next safe place; the handlers that stood before are put back."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

TERMINATION = ("SIGTERM", "SIGUSR1")
EXIT_CODE = 143


PRESSED_AGAIN = "Ctrl-C was pressed again"
"""What a :class:`KeyboardInterrupt` says that shall leave the run, too. Python's exit code
goes by the class, so that it is none of its own."""
_Handler = Callable[[int, FrameType | None], Any] | int | None


@contextmanager
def noted(note: Callable[[int], None], *, interrupts: bool, more: Iterable[str] = ()) -> Iterator[None]:
    """Call ``note`` with the number of a SIGTERM or SIGUSR1, or one of those named in ``more`` (and with ``interrupts`` of a
    Ctrl-C), that arrives inside.

    A second SIGTERM ends the process at once, a second Ctrl-C raises :class:`KeyboardInterrupt` where it is. A handler of
    the user's own is left in its place. Outside the main thread, where handlers cannot be set, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    seen: set[int] = set()

    def handler(number: int, frame: FrameType | None) -> None:
        if number in seen:
            if number == signal.SIGINT:
                raise KeyboardInterrupt(PRESSED_AGAIN)
            os._exit(EXIT_CODE)
        seen.add(number)
        note(number)

    before: dict[int, _Handler] = {}
    names = dict.fromkeys([*TERMINATION, *more, *(["SIGINT"] if interrupts else [])])
    for name in names:
        number = getattr(signal, name, None)
        if number is None:
            continue  # Windows has no SIGUSR1
        standing = signal.getsignal(number)
        if standing is signal.SIG_DFL or (number == signal.SIGINT and standing is signal.default_int_handler):
            before[number] = standing
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, standing in before.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, standing)


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


def first_words(number: int, doing: str) -> str:
    """What is said as soon as a signal is there; ``doing`` is what is finished first."""
    if number == signal.SIGINT:
        return f"finishing this {doing}; press Ctrl-C again to stop now"
    name = signal.Signals(number).name
    return f"{name} arrived: finishing this {doing}, then the run is saved and ended. A second {name} ends it now."


def in_notebook() -> bool:
    """Whether the code runs in IPython, where ending the process would take the user's session along."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None
