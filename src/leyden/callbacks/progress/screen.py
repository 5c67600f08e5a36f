"""Screen: what anybody prints while a bar is drawn stands on lines of its own, above the bar."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def is_terminal(file: Any) -> bool:
    """Whether ``file`` is a screen on which a line can be drawn again: a terminal that is not dumb, or a notebook's output."""
    file = sys.stdout if file is None else file
    if is_notebook(file):
        return True
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown"):
        return False
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):  # no file, or a closed one
        return False


def is_notebook(file: Any) -> bool:
    """Whether what is written to ``file`` appears below a notebook's cell."""
    return type(behind(file)).__module__.startswith("ipykernel.")


def behind(file: Any) -> Any:
    """The file itself, where ``file`` is what a screen has put in its place."""
    return file._file if isinstance(file, Passage) else file


class Passage:
    """Stands in the place of ``sys.stdout`` or ``sys.stderr`` while a bar is drawn. In all else it is the file itself."""

    def __init__(self, file: Any, screen: Screen) -> None:
        self._file = file
        self._screen = screen

    def write(self, text: str) -> int:
        screen = self._screen
        if screen.is_open and os.getpid() == screen.pid:  # a loader's worker must not draw
            screen.write(self._file, text)
        else:
            self._file.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        screen = self._screen
        if screen.is_open and os.getpid() == screen.pid:
            screen.make_room()  # a debugger flushes before it asks
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Screen:
    """While it is open, ``sys.stdout`` and ``sys.stderr``, where they are the terminal, write above what is drawn.

    So do the handlers of :mod:`logging` that hold one of them. All is put back by :meth:`close`.

    Args:
        hide: Takes away what is drawn, if anything is.
        redraw: Draws it again, or leaves that to the next time at which drawing is due.
    """

    def __init__(self, hide: Callable[[], None], redraw: Callable[[], None]) -> None:
        self.hide = hide
        self.redraw = redraw
        self.pid = os.getpid()
        self.is_open = False
        self._lock = threading.RLock()
        self._within_line: Any = None  # the file on which somebody has printed without a newline
        self._passages: dict[str, Passage] = {}
        self._handlers: list[tuple[logging.StreamHandler[Any], Passage]] = []

    def open(self) -> None:
        """Stand in the place of the standard files that are the terminal."""
        self.is_open = True
        for name in ("stdout", "stderr"):
            file = getattr(sys, name)
            if is_terminal(file) and not isinstance(file, Passage):
                self._passages[name] = Passage(file, self)
        self._step_in()
        loggers = [logging.root, *(each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
        for handler in dict.fromkeys(handler for logger in loggers for handler in logger.handlers):
            for passage in self._passages.values():
                if isinstance(handler, logging.StreamHandler) and handler.stream is passage._file:
                    handler.setStream(passage)
                    self._handlers.append((handler, passage))

    def close(self) -> None:
        """Put everything back, but for what somebody else has put in its place meanwhile."""
        self.is_open = False
        self._step_out()
        for handler, passage in self._handlers:
            if handler.stream is passage:
                handler.setStream(passage._file)
        self._passages, self._handlers = {}, []

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What runs inside meets the files themselves: a tqdm of somebody's own draws on them."""
        self._step_out()
        try:
            yield
        finally:
            self._step_in()

    def write(self, file: Any, text: str) -> None:
        """Write ``text`` to ``file``, above what is drawn."""
        if not text:
            return
        with self._lock:
            self.hide()
            file.write(text)
            self._within_line = None if text.endswith("\n") else file
            if self._within_line is None:
                file.flush()
                self.redraw()

    def make_room(self) -> None:
        """Take away what is drawn, until drawing is due."""
        with self._lock:
            self.hide()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside, the bar is drawn: on a line of its own, and by nobody else."""
        with self._lock:
            if self._within_line is not None:
                self._within_line.write("\n")
                self._within_line.flush()
                self._within_line = None
            yield

    def _step_in(self) -> None:
        for name, passage in self._passages.items():
            if getattr(sys, name) is passage._file:
                setattr(sys, name, passage)

    def _step_out(self) -> None:
        for name, passage in self._passages.items():
            if getattr(sys, name) is passage:
                setattr(sys, name, passage._file)
