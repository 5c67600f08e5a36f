"""Write in a thread of its own, so that no step waits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Background:
    """Calls ``write`` with a list of what it is given, one call after another, in a thread.

    ``write`` takes from the list what it has written. Where it raises, the rest is tried again with what comes next.
    """

    def __init__(self, write: Callable[[list[Any]], object]) -> None:
        self._write = write
        self._thread: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None
        self._kept: list[Any] = []
        self.error: Exception | None = None
        """Why the last call failed; ``None`` where it did not."""

    def give(self, items: list[Any]) -> None:
        """Have ``items`` written. Returns at once."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="leyden-logger")
        self._last = self._thread.submit(self._attempt, items)

    def wait(self) -> int:
        """Wait until all is written, or has failed once more. How many items have not been written."""
        if self._kept and (self._last is None or self._last.done()):
            self.give([])
        if self._last is not None:
            self._last.result()
        return len(self._kept)

    def end(self) -> None:
        """Let the thread go, and give up what could not be written."""
        if self._thread is not None:
            self._thread.shutdown()
        self._thread = self._last = self.error = None
        self._kept = []

    def _attempt(self, items: list[Any]) -> None:
        self._kept += items
        if not self._kept:
            return
        try:
            self._write(self._kept)
        except Exception as error:  # whatever a service raises: training goes on
            self.error = error
        else:
            self.error = None
