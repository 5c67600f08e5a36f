"""Whether the processes of this job are its first ones, and since when the job runs."""

from __future__ import annotations

import os
import time
from contextlib import suppress

ATTEMPT, BEGAN = "LEYDEN_ATTEMPT", "LEYDEN_BEGAN"


def attempt() -> int:
    """How often the processes of this job were started before."""
    for name in (ATTEMPT, "TORCHELASTIC_RESTART_COUNT"):
        with suppress(ValueError):
            if os.environ.get(name):
                return int(os.environ[name])
    return 0


def began() -> float | None:
    """When the job began, in seconds since 1970; ``None`` where that is not known."""
    with suppress(ValueError):
        if os.environ.get(BEGAN):
            return float(os.environ[BEGAN])
    if "TORCHELASTIC_RESTART_COUNT" in os.environ:  # torchrun outlives attempts, and Linux says since when it runs
        with suppress(OSError, ValueError, IndexError, StopIteration):
            return _started(os.getppid())
    return None


def _started(pid: int) -> float:
    """When a process began, in seconds since 1970."""
    with open(f"/proc/{pid}/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])  # since the machine was started
    with open("/proc/uptime") as file:
        up = float(file.read().split()[0])
    return time.time() - (up - ticks / os.sysconf("SC_CLK_TCK"))


def for_attempt(number: int, since: float) -> dict[str, str]:
    """What the processes of an attempt have to find in their environment."""
    return {ATTEMPT: str(number), BEGAN: repr(since)}


def again(number: int, most: int) -> str:
    """What is said when attempt ``number`` has failed, and the next one begins."""
    return f"\nThe processes are started again ({number + 1} of at most {most} times).\n"
