"""What each process leaves in the store of the group when a fit is over, so that the first one can save it alone."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

from torch import Tensor

from leyden.distributed.processes import Processes
from leyden.distributed.sharing import on_cpu
from leyden.tree import tree_map

_OF_EACH, _OF_ALL = 2**20, 2**26
"""Bytes that the first process, which keeps the store, holds at most."""
_OTHERS_TAKE = timedelta(seconds=5)
_TOO_MUCH = b"-"


class LeftBehind:
    """Of one trainer, the newest fit's. What is large is not left: it is exchanged when somebody saves."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.name = ""

    def leave(self, own: Any) -> None:
        """This process's, in the place of what it has left before. Waits for nobody."""
        processes, before = self.processes, self.name
        self.name = processes.next_name("leyden/left")
        most, bytes_of = min(_OF_EACH, _OF_ALL // processes.world), list[int]()
        tree_map(own, Tensor, lambda tensor: bytes_of.append(tensor.nbytes))
        content = _TOO_MUCH if sum(bytes_of) > most else pickle.dumps(on_cpu(own))
        if before:
            processes.store.delete_key(f"{before}/{processes.rank}")
        processes.store.set(f"{self.name}/{processes.rank}", content if len(content) <= most else _TOO_MUCH)

    def of_all(self) -> list[Any] | None:
        """What all have left, by rank; ``None`` where it is not all there."""
        if not self.name:
            return None
        keys, store = [f"{self.name}/{rank}" for rank in range(self.processes.world)], self.processes.store
        try:
            store.wait(keys, _OTHERS_TAKE)
            found = [store.get(key) for key in keys]
        except (RuntimeError, ValueError):  # the group is another one by now
            return None
        return None if _TOO_MUCH in found else [pickle.loads(each) for each in found]
