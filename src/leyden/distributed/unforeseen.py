"""What a process does alone while the others wait for it in an exchange: said, and compared, in the store of the group."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from leyden.distributed.processes import Processes
from leyden.errors import Unsupported

PATIENCE = 30.0
"""Seconds for which a process waits for the others' word."""
_LOOKS_EVERY = 0.002
_LOOKS_AT_LEAST_EVERY = 0.1


def everyone(
    store: Any,
    key: str,
    world: int,
    look: Callable[[], str] = str,
    what: str = "ended its step",
    patience: float | None = None,
) -> str:
    """Wait until all of ``world`` processes have come to ``key``, as this one has, by having done ``what``; empty then. Otherwise
    what ``look`` finds that one of them has done instead, or that ``patience`` (:data:`PATIENCE`) is at an end."""
    patience = PATIENCE if patience is None else patience
    pause, until = _LOOKS_EVERY, time.monotonic() + patience
    here = int(store.add(key, 1))
    while here < world:
        found = look()
        if found:
            return found
        if time.monotonic() > until:
            others = "no other one has" if here == 1 else f"only {here} of {world} have"
            return f"{others} {what} in {patience:g} seconds: it may wait for this one in an exchange"
        time.sleep(pause)
        pause = min(2 * pause, _LOOKS_AT_LEAST_EVERY)
        here = int(store.add(key, 0))
    return ""


def all_alike(store: Any, key: str, world: int, patience: float) -> bool:
    """Whether all of ``world`` processes come to ``key``, none waiting longer than ``patience`` for the rest. Those that come get
    the same answer."""
    verdict, until = f"{key}/verdict", time.monotonic() + patience
    all_here, pause = int(store.add(key, 1)) == world, _LOOKS_EVERY
    while not (all_here or store.check([verdict]) or time.monotonic() > until):
        time.sleep(pause)
        pause = min(2 * pause, _LOOKS_AT_LEAST_EVERY)
    return bool(store.compare_set(verdict, "", "all" if all_here else "some") == b"all")  # the first who says it is heard


class Unforeseen:
    """What a process does alone while the others wait for it in an exchange, where nobody could know that beforehand: it gave no
    loss, it called backward another number of times, its data ended. Costs nothing until it happens.

    Who does such a thing says so in the store of the process group, and waits until all have: then it was meant for all.
    """

    def __init__(self, processes: Processes) -> None:
        self.store, self.world, self.rank = processes.store, processes.world, processes.rank
        self.name = processes.next_name("leyden/unforeseen")
        self.times: Counter[str] = Counter()

    def meet(
        self, where: str, deed: str, remedy: str, what: str = "ended its step", error: type[Exception] = Unsupported
    ) -> None:
        """Raises ``error`` where not all processes do ``deed`` at ``where``: they have not done ``what``."""
        self.times[where] += 1
        others = everyone(self.store, f"{self.name}/{where}/{self.times[where]}", self.world, what=what)
        if others:
            raise error(f"{deed} on process {self.rank}, and {others}. {remedy}")
