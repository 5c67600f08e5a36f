"""An exchange that PyTorch gives up by ending the process: held up, so that it can be said first who brought what."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Any, final

_HANDLER = ctypes.CFUNCTYPE(None)
_LIBRARIES = {"linux": "libstdc++.so.6", "darwin": "libc++abi.dylib"}


@final
class Abort:
    """Of this process, from :meth:`heed` to :meth:`ignore`.

    Where processes bring other sizes to one exchange, a thread of gloo's throws an exception that nobody catches, and C++ ends
    the process by its terminate handler. This one lets that thread wait, and so the connections stand, while another thread
    tells the other processes. Then, or where nobody does, what C++ would have done is done.

    Args:
        waits: seconds that the others are given.
    """

    def __init__(self, waits: float) -> None:
        self.waits = waits
        self.begun = threading.Event()
        self._pid = os.getpid()
        self._before: Any = None
        self._handler = _HANDLER(self._hold)  # lives as long as C++ may call it

    def heed(self) -> None:
        set_handler = _set_handler()
        if set_handler is not None:
            self._before = set_handler(self._handler)

    def ignore(self) -> None:
        set_handler = _set_handler()
        if set_handler is not None and self._before is not None:
            set_handler(self._before)

    def _hold(self) -> None:
        if os.getpid() == self._pid and threading.current_thread() is not threading.main_thread():
            self.begun.set()
            time.sleep(self.waits)
        self._before()


def rest_at_the_end() -> None:
    """The interpreter ends: a thread that comes back to it later, out of C++, rests until the process is gone.

    Python before 3.14 unwinds such a thread, and C++ ends the whole process for that, as if it had failed. What is called there
    is a function of C, since Python works no more.
    """
    set_handler = _set_handler()
    if set_handler is not None:
        set_handler(ctypes.cast(ctypes.CDLL(None).pause, _HANDLER))


def _set_handler() -> Any:
    """``std::set_terminate``; ``None`` where it is not found."""
    with suppress(OSError, AttributeError, KeyError):
        found = ctypes.CDLL(_LIBRARIES[sys.platform])._ZSt13set_terminatePFvvE
        found.restype, found.argtypes = _HANDLER, [_HANDLER]
        return found
    return None
