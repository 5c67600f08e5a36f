"""A process's share of the data: which samples of the whole order are its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile, zip_longest
from operator import is_not, itemgetter
from typing import Any, Literal

from leyden.distributed.processes import Alone, Processes
from leyden.errors import InvalidOption

NOBODY: Processes = Alone()
_END = object()


@dataclass(frozen=True)
class Share:
    """Whose samples are whose, where ``world`` processes share one order of the data.

    Process ``rank`` gets number ``rank``, ``rank + world``, ... of the order. All processes have to go through the same order: a
    sampler that shuffles draws it from the random state of the first (see :mod:`leyden.data.agreed`).

    Args:
        rank: which of the processes this is, from 0.
        world: how many there are; 1 means that all of the data is this process's own.
        uneven: what becomes of an end that does not go around. With ``keep`` the first processes get one more than the others,
            so that each sample is read once over all (evaluation). With ``drop`` it is left out, so that all get the same number
            (training). Nothing is ever read twice to fill up.
        batches: whether whole batches are shared out, as one process would make them, and not samples (prediction).
        processes: by whom what has to be the same everywhere is agreed on. They may be several where each reads all that its
            loader has (``world=1``).
    """

    rank: int = 0
    world: int = 1
    uneven: Literal["keep", "drop"] = "keep"
    batches: bool = False
    processes: Processes = field(default=NOBODY, repr=False, compare=False)

    def __reduce__(self) -> Any:
        return Share, (self.rank, self.world, self.uneven, self.batches)  # a copy of a run is alone

    def __post_init__(self) -> None:
        if self.world < 1:
            raise InvalidOption("world", self.world, "a number of processes >= 1")
        if not 0 <= self.rank < self.world:
            raise InvalidOption("rank", self.rank, f"a number from 0 to {self.world - 1}")
        if self.uneven not in ("keep", "drop"):
            raise InvalidOption("uneven", self.uneven, "'keep' or 'drop'")

    def of(self, indices: Iterable[Any]) -> Iterator[Any]:
        """Those of ``indices`` that are this process's own.

        They are drawn a round of all processes at a time, so that every process has drawn the same number, whatever its rank.
        """
        drawn = [iter(indices)] * self.world
        if self.uneven == "drop":
            return map(itemgetter(self.rank), zip(*drawn, strict=False))
        return takewhile(partial(is_not, _END), map(itemgetter(self.rank), zip_longest(*drawn, fillvalue=_END)))

    def size(self, total: int) -> int:
        """How many of ``total`` are this process's own."""
        whole, rest = divmod(total, self.world)
        return whole + (self.uneven == "keep" and self.rank < rest)


ALONE = Share()


class Shared:
    """Stands in for a sampler: what it gives, as far as it is this process's own."""

    def __init__(self, sampler: Any, share: Share) -> None:
        self.sampler = sampler
        self.share = share

    def __iter__(self) -> Iterator[Any]:
        return self.share.of(self.sampler)

    def __len__(self) -> int:
        return self.share.size(len(self.sampler))
