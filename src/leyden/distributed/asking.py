"""Threads that ask the store of a process group beside the training one."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import final
from weakref import WeakSet

from leyden.distributed.aborts import rest_at_the_end

STORE_TAKES = 10.0
"""Seconds that the store may take to answer."""
_LEAVING_TAKES = 6 * STORE_TAKES
"""One round of the watch asks up to five times; where the store does not answer at all, the first of them is the last."""


@final
class Asking(threading.Thread):
    """A thread that asks the store. An interpreter that ends waits until it has its answer, or sees to it that it rests.

    Otherwise it would come back, out of C++, to an interpreter that is gone, and that aborts the process after its run.

    Args:
        body: what it does; it returns soon after :attr:`ending` is set.
        name: of the thread.
        awaited: whether an answer will come that is worth waiting for.
    """

    def __init__(self, body: Callable[[], None], name: str, awaited: bool = True) -> None:
        super().__init__(target=body, name=name, daemon=True)
        self.awaited = awaited
        self.ending = threading.Event()
        """Nothing more is to be done; set at the latest when the interpreter ends."""

    def start(self) -> None:
        _begun.add(self)
        super().start()


_begun: WeakSet[Asking] = WeakSet()


def _let_return() -> None:
    begun, until = list(_begun), time.monotonic() + _LEAVING_TAKES
    for thread in begun:
        thread.ending.set()
    for thread in begun:
        thread.join(max(0.0, until - time.monotonic()) if thread.awaited else 0.0)
    if any(thread.is_alive() for thread in begun):
        rest_at_the_end()


atexit.register(_let_return)
