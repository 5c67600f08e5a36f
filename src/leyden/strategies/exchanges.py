"""What a strategy exchanges between the processes, in Lightning's words."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from leyden.distributed.processes import Processes
from leyden.distributed.same_tensors import agree_on_tensors
from leyden.distributed.talks import Talks
from leyden.errors import InvalidOption
from leyden.strategies.shards import own_of
from leyden.strategies.skips import ByHand, Skips

_REDUCTIONS: dict[str, Literal["sum", "min", "max"]] = {"mean": "sum", "avg": "sum", "sum": "sum", "min": "min", "max": "max"}


def _nothing() -> None:
    pass


class Exchanges:
    """Every exchange is called on all processes, in the same order."""

    processes: Processes
    global_rank: int
    root_device: Any

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
        """Every process's ``tensor``, stacked along a new first dimension; with one process, ``tensor`` itself.

        Raises :class:`TensorsDiffer` on every process where shapes or types differ.
        """
        if group is None:
            agree_on_tensors(self.processes, "all_gather", tensor)
        return self.processes.all_gather(tensor, group, sync_grads)

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        """``tensor`` reduced over the processes, on every process: by ``"mean"`` (``"avg"``), ``"sum"``, ``"min"`` or ``"max"``,
        or a member of ``torch.distributed.ReduceOp``. What is no tensor stays as it is.

        Raises :class:`InvalidOption`; :class:`TensorsDiffer` on every process where shapes or types differ.
        """
        word = str(reduce_op or "sum").lower().rsplit(".", 1)[-1]
        if word not in _REDUCTIONS:
            raise InvalidOption("reduce_op", reduce_op, "one of " + ", ".join(map(repr, _REDUCTIONS)))
        if self.processes.alone or not isinstance(tensor, Tensor) or not self.processes.meets():
            return tensor
        agree_on_tensors(self.processes, "reduce", tensor)
        whole = self.processes.all_reduce(tensor, _REDUCTIONS[word])
        return whole / self.processes.world if word in ("mean", "avg") else whole

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether all processes (or with ``all=False``, any of them) decided so."""
        if self.processes.alone or not self.processes.meets():
            return decision
        votes = int(self.processes.all_reduce(torch.tensor(int(decision))))
        return votes == self.processes.world if all else votes > 0

    def leyden_ended(self) -> None:
        """This process has evaluated all of its batches of a loader. Called before anything is exchanged of them."""

    def leyden_share_buffers(self) -> None:
        """Give all processes the buffers that the first one's module has, which are those that a checkpoint holds."""

    def leyden_accumulating(self) -> AbstractContextManager[Any]:
        """What forward and backward run in while the window is not full: no gradients are exchanged then."""
        return nullcontext()

    def leyden_set_aside(self) -> Callable[[], None]:
        """Let gradients go that wait elsewhere than in ``parameter.grad``; what is returned brings them back."""
        return _nothing

    def leyden_whole(self, tree: Any) -> Any:
        """``tree`` of dicts and lists with whole tensors in the place of shards, on the first process, for a file."""
        return tree

    def leyden_cut(self, state: Mapping[str, Any], like: Mapping[str, Any]) -> Mapping[str, Any]:
        """``state`` of a checkpoint, with shards in the place of tensors whose namesakes in ``like`` are shards."""
        return state

    def leyden_leave(self, own: Mapping[str, Any]) -> None:
        """A fit is over, and of this process a checkpoint holds ``own`` from now on. Waits for nobody."""

    def leyden_of_all(self, own: Any, at_rest: bool) -> list[Any]:
        """The ``own`` of all processes, by rank; whether they are those that were left with :meth:`leyden_leave`."""
        return self.processes.gather_objects(own)

    def leyden_saving(self, what: str) -> AbstractContextManager[None]:
        """Around a save that a user asks for by ``what``."""
        return self.processes.called_by_all(what)

    def leyden_own(self, kept: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        """What a checkpoint kept of this process among all of ``kept``; gradients also where there were others than there are."""
        return own_of(kept, self.processes, self.leyden_peers, in_shards=False)

    def leyden_take_gradients(self, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        """The gradients of ``parameters`` that wait for a step: by name this process's own, before the exchange or after it."""
        return {"gradients": {name: each.grad for name, each in parameters.items() if each.grad is not None}}

    def leyden_put_gradients(self, parameters: Mapping[str, Tensor], state: Mapping[str, Any], exchanged: bool) -> None:
        """Put back what :meth:`leyden_take_gradients` took; whether the processes have exchanged them already."""
        for name, gradient in state["gradients"].items():
            if name in parameters:
                parameters[name].grad = gradient.to(parameters[name])

    def leyden_exchange(self) -> dict[str, Any]:
        """What the exchange of gradients remembers from step to step, for a checkpoint. Nothing is exchanged."""
        return {}

    def leyden_put_exchange(self, kept: Mapping[str, Any]) -> None:
        """Go on from what :meth:`leyden_exchange` returned, once the module is wrapped."""

    def leyden_reshard(self) -> None:
        """What a forward has left whole is in shards again: the module's parameters are those that optimizers have."""

    def leyden_mean_loss(self, loss: Tensor | None) -> Tensor | None:
        """The mean of what is a loss on the processes, where an optimizer decides by it; ``None`` where it is on none."""
        if self.processes.alone:
            return None if loss is None else loss.detach()
        mine = torch.tensor([0.0, 0.0] if loss is None else [float(loss), 1.0], dtype=torch.float64)
        total, count = self.leyden_peers.all_reduce(mine)
        return total / count if count else None

    @property
    def leyden_peers(self) -> Processes:
        """The processes that read other data than this one, and this one: their logged values become one."""
        return self.processes

    def leyden_expect_backward(self, loss: Tensor) -> None:
        """A backward of manual optimization comes next."""

    def leyden_backed(self) -> None:
        """A backward is over."""

    def leyden_await_exchange(self) -> None:
        """Return when the last backward's exchange is over. On a GPU it runs after the calls that ask for it."""
        device = self.root_device
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)

    def leyden_skips(self, talks: Talks) -> Skips | None:
        """How batches that give no loss on some processes are dealt with; ``None`` where there can be none. Asked once a fit."""
        return None

    def leyden_no_loss(self, progress: Any, optimizer: Any, zero: Any = None, entered: bool = True) -> None:
        """The running batch gives no backward here, and :meth:`leyden_skips` knows nothing of it."""

    def leyden_by_hand(self) -> ByHand | None:
        """What counts the backwards of manual optimization; ``None`` where they exchange nothing. Asked once a fit."""
        return None

    def leyden_ended_early(self, epoch: int, batches: int) -> None:
        """The loader of this process has ended before its length, after so many batches."""

    def leyden_average(self, parameters: Sequence[Tensor]) -> None:
        """Make the gradients of ``parameters``, which were computed without an exchange, those of all processes."""
