"""What a strategy exchanges between the processes, in Lightning's words."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from leyden.distributed.processes import Processes
from leyden.errors import InvalidOption
from leyden.strategies.skips import Skips

_REDUCTIONS: dict[str, Literal["sum", "min", "max"]] = {"mean": "sum", "avg": "sum", "sum": "sum", "min": "min", "max": "max"}


class Exchanges:
    """Every exchange is called on all processes, in the same order."""

    processes: Processes
    global_rank: int

    @property
    def is_global_zero(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.global_rank == 0

    def barrier(self, name: str | None = None) -> None:
        """Wait until every process is here."""
        self.processes.barrier(name)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """The object that process ``src`` passed."""
        return self.processes.broadcast(obj, src)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        """Every process's ``tensor``, stacked along a new first dimension; with one process, ``tensor`` itself."""
        return self.processes.all_gather(tensor, group, sync_grads)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        """``tensor`` reduced over the processes, on every process: by ``"mean"`` (``"avg"``), ``"sum"``, ``"min"`` or ``"max"``,
        or a member of ``torch.distributed.ReduceOp``. What is no tensor stays as it is. Raises :class:`InvalidOption`."""
        word = str(reduce_op or "sum").lower().rsplit(".", 1)[-1]
        if word not in _REDUCTIONS:
            raise InvalidOption("reduce_op", reduce_op, "one of " + ", ".join(map(repr, _REDUCTIONS)))
        if self.processes.alone or not isinstance(tensor, Tensor):
            return tensor
        whole = self.processes.all_reduce(tensor, _REDUCTIONS[word])
        return whole / self.processes.world if word in ("mean", "avg") else whole

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes (or with ``all=False``, any of them) decided so."""
        if self.processes.alone:
            return decision
        votes = int(self.processes.all_reduce(torch.tensor(int(decision))))
        return votes == self.processes.world if all else votes > 0

    def leyden_whole(self, tree: Any) -> Any:
        """``tree`` of dicts and lists with whole tensors in the place of shards, on the first process, for a file."""
        return tree

    def leyden_cut(self, state: Mapping[str, Any], like: Mapping[str, Any]) -> Mapping[str, Any]:
        """``state`` of a checkpoint, with shards in the place of tensors whose namesakes in ``like`` are shards."""
        return state

    def leyden_reshard(self) -> None:
        """What a forward has left whole is in shards again: the module's parameters are those that optimizers have."""

    @property
    def leyden_peers(self) -> Processes:
        """The processes that read other data than this one, and this one: their logged values become one."""
        return self.processes

    def leyden_expect_backward(self, loss: Tensor) -> None:
        """A backward of manual optimization comes next."""

    def leyden_skips(self) -> Skips | None:
        """How batches that give no loss on some processes are dealt with; ``None`` where there can be none. Asked once a fit."""
        return None

    def leyden_average(self, gradients: Sequence[Tensor]) -> None:
        """Make gradients that were computed without an exchange those of all processes, in place."""
