"""All processes of a command as children of one that trains nothing, and starts them again when one fails."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from leyden.distributed.last_words import of_exit, say
from leyden.distributed.restarts import again, for_attempt
from leyden.distributed.signals import EXIT_CODE

LOOKS_EVERY = 0.1
GRACE = 10.0
"""Seconds that the others have to end by themselves once one has failed."""
_PASSED_ON = ("SIGINT", "SIGTERM", "SIGUSR1")


def supervise(start: Callable[[dict[str, str]], list[subprocess.Popen[bytes]]], restarts: int) -> int:
    """Run what ``start`` starts with variables more in the environment, at most ``restarts`` times again; the exit code.

    Signals go to all of them. A run that a signal has ended is not started again.
    """
    since, running, asked = time.time() - 1.0, list[subprocess.Popen[bytes]](), list[int]()

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    before: dict[int, Any] = {}
    for name in _PASSED_ON:
        if hasattr(signal, name):
            before[getattr(signal, name)] = signal.signal(getattr(signal, name), pass_on)
    try:
        code = 1
        for number in range(restarts + 1):
            running[:] = start(for_attempt(number, since))
            code = _watched(running)
            if code in (0, EXIT_CODE) or asked:
                return code
            if number < restarts:
                say(again(number, restarts))
        return code
    finally:
        for process in running:
            with suppress(OSError):
                process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watched(running: list[subprocess.Popen[bytes]]) -> int:
    """Wait until all have ended, and for not much longer than for the first that fails: its code."""
    failed, until = 0, float("inf")
    while True:
        codes = [process.poll() for process in running]
        if not failed:
            for rank, code in enumerate(codes):
                if code is not None and code != 0:
                    words = of_exit(rank, code, "")
                    failed = words.code if code < 0 else code
                    until = time.monotonic() + GRACE
                    if code < 0:
                        say(words.shown(len(running)))
                    break
        if all(code is not None for code in codes):
            return failed
        if time.monotonic() > until:
            for process in running:
                process.kill()
        time.sleep(LOOKS_EVERY)
