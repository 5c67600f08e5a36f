"""Processes as threads of one test: every rank runs the same body, and what they exchange is written down and compared.

One rank runs at a time, and the others wait: they take turns at exchanges, so nothing is raced for. Each has its own global
random state, as a process has. A rank that asks for another exchange than the rest, or that ends while others wait for it,
is an error on all of them at once: nothing hangs.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.distributed.processes import Body, Processes
from leyden.distributed.rank_zero import rank_zero_only

T = TypeVar("T")
_COMBINED: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda stacked: stacked.sum(0, dtype=stacked.dtype),
    "min": lambda stacked: stacked.amin(0),
    "max": lambda stacked: stacked.amax(0),
}


class ExchangeFailed(AssertionError):
    """The ranks did not all ask for the same exchange."""


class ProcessesOfThreads(Processes):
    """One rank of :func:`run_together`. ``exchanges`` is what it asked for, in order: a word and what has to agree."""

    def __init__(self, meeting: _Meeting, rank: int, nodes: int) -> None:
        self.meeting = meeting
        self.rank, self.world, self.nodes = rank, meeting.world, nodes
        per_node = meeting.world // nodes
        self.node_rank, self.local_rank = divmod(rank, per_node)
        self.exchanges: list[tuple[Any, ...]] = []

    @property
    def words(self) -> list[str]:
        """The exchanges' kinds, in order."""
        return [word for word, *_ in self.exchanges]

    def launched(self, body: Body) -> Body:
        return body  # the threads run already

    def barrier(self, name: str | None = None) -> None:
        self._exchange(("barrier", name), None)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        sent = pickle.dumps(obj) if self.rank == src else None
        return pickle.loads(self._exchange(("broadcast", src), sent)[src])

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        return _COMBINED[op](torch.stack(self._tensors(("all_reduce", op), tensor)))

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return torch.stack(self._tensors(("all_gather", group), tensor))

    def gather_objects(self, obj: Any) -> list[Any]:
        return [pickle.loads(sent) for sent in self._exchange(("gather_objects",), pickle.dumps(obj))]

    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        raised, first = 0, 0.0
        for rank, (theirs, time) in enumerate(self._exchange(("agree",), (flags, clock))):
            raised |= theirs
            first = time if rank == 0 else first
        return raised, first

    def _tensors(self, what: tuple[Any, ...], tensor: Tensor) -> list[Tensor]:
        if tensor.device.type != "cpu":
            raise ExchangeFailed(f"{what} was asked for a tensor on {tensor.device}: the group's tensors are on the CPU.")
        values: list[Tensor] = self._exchange((*what, tensor.dtype, tuple(tensor.shape)), tensor.detach().clone())
        return values

    def _exchange(self, what: tuple[Any, ...], value: Any) -> list[Any]:
        self.exchanges.append(what)
        return self.meeting.exchange(self.rank, what, value)


class _Meeting:
    """Where the ranks meet. Whoever holds ``turn`` runs."""

    def __init__(self, world: int, timeout: float) -> None:
        self.world = world
        self.timeout = timeout
        self.turn = threading.Condition()
        self.brought: dict[int, tuple[tuple[Any, ...], Any]] = {}
        self.results: dict[int, list[Any]] = {}  # of the last exchange, to be fetched
        self.ended: set[int] = set()
        self.broken: str | None = None
        self._random: dict[int, dict[str, Any]] = {}
        self._first: dict[int, int | None] = {}

    def exchange(self, rank: int, what: tuple[Any, ...], value: Any) -> list[Any]:
        if self.broken is not None:
            raise ExchangeFailed(f"rank {rank} asks for {what}, and {self.broken}")
        self._leave(rank)
        self.brought[rank] = (what, value)
        self._look()
        self.turn.notify_all()
        met = self.turn.wait_for(lambda: rank in self.results or self.broken is not None, self.timeout)
        if not met:
            self._break(f"only the ranks {sorted(self.brought)} of {self.world} came within {self.timeout} s")
        if rank not in self.results:
            raise ExchangeFailed(f"rank {rank} waits in {what}, and {self.broken}")
        self.enter(rank)
        return self.results.pop(rank)

    def _look(self) -> None:
        """Hand out the values where everybody has come; else see whether somebody never will."""
        if len(self.brought) < self.world:
            if self.ended:
                asked = {rank: what for rank, (what, _) in self.brought.items()}
                self._break(f"the ranks {sorted(self.ended)} have ended, while others ask for {asked}")
            return
        asked = {rank: what for rank, (what, _) in self.brought.items()}
        if len(set(map(repr, asked.values()))) > 1:
            self._break(f"the ranks ask for different exchanges: {asked}")
            return
        values = [self.brought[rank][1] for rank in range(self.world)]
        self.brought = {}
        self.results = dict.fromkeys(range(self.world), values)

    def _break(self, why: str) -> None:
        self.broken = self.broken or why
        self.turn.notify_all()

    def enter(self, rank: int) -> None:
        """``rank`` runs from here on: what is global in a process is its own."""
        if rank in self._random:
            set_random_state(self._random[rank])
            rank_zero_only.rank = self._first[rank]

    def _leave(self, rank: int) -> None:
        self._random[rank] = random_state()
        self._first[rank] = rank_zero_only._rank

    def end(self, rank: int) -> None:
        self.ended.add(rank)
        if self.brought:
            self._look()


def outcomes_together(
    world: int, body: Callable[[ProcessesOfThreads], T], *, nodes: int = 1, timeout: float = 60.0
) -> list[T | BaseException]:
    """What ``body`` returned, or raised, on each of ``world`` ranks. One that goes on for longer is an error."""
    meeting = _Meeting(world, timeout)
    outcomes: dict[int, T | BaseException] = {}
    start, first = random_state(), rank_zero_only._rank

    def run(rank: int) -> None:
        with meeting.turn:
            set_random_state(start)
            rank_zero_only.rank = rank
            try:
                outcomes[rank] = body(ProcessesOfThreads(meeting, rank, nodes))
            except BaseException as error:
                outcomes[rank] = error
            finally:
                meeting.end(rank)

    threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(world)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * timeout)
    finally:
        set_random_state(start)
        rank_zero_only.rank = first
    stuck = [thread.name for thread in threads if thread.is_alive()]
    if stuck:
        raise ExchangeFailed(f"{', '.join(stuck)} did not end.")
    return [outcomes[rank] for rank in range(world)]


def run_together(world: int, body: Callable[[ProcessesOfThreads], T], *, nodes: int = 1, timeout: float = 60.0) -> list[T]:
    """What ``body`` returned on each of ``world`` ranks. Raises what the first rank raised that did not just wait for others."""
    outcomes = outcomes_together(world, body, nodes=nodes, timeout=timeout)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for error in sorted(errors, key=lambda error: isinstance(error, ExchangeFailed)):
        raise error
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
