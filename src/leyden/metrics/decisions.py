"""Whether all processes have the values by which something decides, before they exchange them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

from leyden.distributed.processes import Processes
from leyden.distributed.unforeseen import everyone
from leyden.errors import MetricsDiffer


class Decisions:
    """The decisions of one training by values that are each process's own.

    One costs nothing as long as this process has the values that it had at the one before by the same names; else it waits until
    the others have come to it too. Who lacks one leaves a word in the store of the group, so that nobody waits for it.

    Args:
        processes: whose values become one.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._name = ""
        self._times: Counter[str] = Counter()
        self._had: dict[str, str] = {}

    def agree(self, names: Collection[str], own: Sequence[str]) -> None:
        """A decision by ``names`` comes, and of ``own`` this process has values of its own.

        Raises :class:`MetricsDiffer` where another process lacks one of ``own``.
        """
        store, rank, world = self._processes.store, self._processes.rank, self._processes.world
        if store is None:
            return
        self._name = self._name or self._processes.next_name("leyden/decisions")
        what, mine = f"{self._name}/{sorted(names)}", json.dumps(sorted(own))
        self._times[what] += 1
        times = self._times[what]
        had, self._had[what] = self._had.get(what, "[]"), mine
        if had != mine or len(own) < len(names):
            store.set(f"{what}/{rank}", f"{times} {mine}")
        if had == mine or not own:
            return
        others = [f"{what}/{each}" for each in range(world) if each != rank]
        found = everyone(store, f"{what}/{times}/{mine}", world, partial(_lacking, store, others, own, times), patience=math.inf)
        if found:
            raise MetricsDiffer(
                f"{found}, by which all processes decide alike (ModelCheckpoint, EarlyStopping, a scheduler), and process {rank} "
                f"has. Log it in the same batches on every process."
            )


def _lacking(store: Any, others: Sequence[str], own: Sequence[str], times: int) -> str:
    """Which of the ``others`` has come to a decision without a value of ``own``; empty where none has."""
    for key in others:
        if store.check([key]):
            came, theirs = store.get(key).decode().split(" ", 1)
            lacks = [name for name in own if int(came) > times or name not in json.loads(theirs)]
            if int(came) >= times and lacks:
                rank = key.rsplit("/", 1)[1]
                return f"process {rank} has logged no value of a step by the name of {', '.join(map(repr, lacks))}"
    return ""
