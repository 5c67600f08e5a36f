"""Processes whose training data does not end at the same batch: they end together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from leyden.distributed.processes import Processes
from leyden.errors import InvalidLoader, LeydenWarning, warn_user

_OPEN = -1  # stands for a length that is not known


def shortest(processes: Processes, length: int | None, name: str, shared: bool) -> int | None:
    """Of how many batches an epoch is that each process can take part in to its end; ``None`` where one of them cannot tell.

    ``length`` is this process's; ``shared`` says that all read shares of one order, and need to find it of one length.

    Raises :class:`InvalidLoader` on every process where that is not so.
    """
    known = _OPEN if length is None else length
    least, most = processes.all_reduce(torch.tensor([known, -known]), "min").tolist()
    if least == -most:
        return length
    found = processes.gather_objects(length)
    listed = ", ".join(f"{'an unknown number' if each is None else each} on process {rank}" for rank, each in enumerate(found))
    if shared:
        raise InvalidLoader(
            f"{name} has another number of batches on each process ({listed}), and the processes share its samples: some would "
            f"be read twice, or never. Let every process have the same dataset, or give each its own data and pass "
            f"Trainer(use_distributed_sampler=False)."
        )
    if any(each is None for each in found):
        return None
    if processes.is_first:
        warn_user(
            f"{name} has another number of batches on each process ({listed}): every epoch ends after {least} on all of them. "
            f"Give each process as many, if no sample is to be left out.",
            LeydenWarning,
        )
    return int(least)


class Meeting:
    """How processes that cannot tell the lengths of their data end an epoch at the same batch.

    Each reads some batches ahead, and so knows its end before it comes. It then says in the store of the process group at which
    batch all are to talk about it. A step's exchange of gradients lies between, so that all have read that in time; until then
    nothing is exchanged. Where steps exchange nothing that is sure to come (manual optimization), they talk at every batch.

    Args:
        processes: all of them.
        window: batches that make a step, so that the others hear of it at the end of one.
        await_exchange: returns when the exchange of gradients is over with which each such window ends; ``None`` where there
            may be none.
    """

    def __init__(self, processes: Processes, window: int, await_exchange: Callable[[], Any] | None) -> None:
        self.processes, self.window, self.await_exchange = processes, window, await_exchange
        self.store: Any = processes.store
        self.key = processes.next_name("leyden/end")
        self.ahead = window + 1  # batches that each reads ahead
        self.said = False
        self.last: int | None = None
        self.first = True

    def last_batch(self, index: int, left: int | None) -> int | None:
        """The number of the epoch's last batch, once it is agreed on; ``None`` before.

        All call it before each batch, ``index``. ``left`` is how many this process has, that one included, once it has found the
        end of its data.
        """
        if self.last is not None:
            return self.last
        if self.first or self.await_exchange is None:
            self.first = False
            return self._talk(index, left)
        if left is not None and not self.said:
            self.said = True
            at = index + self.window - index % self.window
            self.store.compare_set(self.key, "", str(at))  # the first who says it is heard
        if index % self.window:
            return None
        self.await_exchange()
        ends = self.store.check([self.key]) and int(self.store.get(self.key)) <= index
        return self._talk(index, left) if ends else None

    def _talk(self, index: int, left: int | None) -> int | None:
        unknown = 2**62
        least = int(self.processes.all_reduce(torch.tensor([unknown if left is None else left]), "min")[0])
        if least < unknown:
            self.last = index + least - 1
        return self.last


Window = Callable[[], tuple[int, Callable[[], Any] | None]]
"""Batches that make a step, and what returns when the exchange of gradients is over with which a step ends, if it does."""
