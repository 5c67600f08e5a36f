"""Some of the processes, which talk among themselves: those that read other data, where several have the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, final

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.distributed.backends import carried
from leyden.distributed.processes import Body, Processes
from leyden.distributed.sharing import on_cpu, packed, unpacked

_OPERATIONS = {"sum": dist.ReduceOp.SUM, "min": dist.ReduceOp.MIN, "max": dist.ReduceOp.MAX}


@final
class Peers(Processes):
    """Process ``rank`` of ``world`` in the process group that ``group`` returns once all have begun; ``every`` is all of them."""

    def __init__(self, every: Processes, rank: int, world: int, group: Callable[[], Any]) -> None:
        self.every, self.rank, self.world = every, rank, world
        self._find = group

    @property
    def group(self) -> Any:
        """The process group of these."""
        return self._find()

    @property
    def store(self) -> Any:
        """That of all processes, under names of these."""
        store = self.every.store
        return (
            None
            if store is None
            else dist.distributed_c10d.PrefixStore(f"leyden/of {dist.get_global_rank(self.group, 0)}", store)
        )

    def launched(self, body: Body) -> Body:
        return self.every.launched(body)

    def barrier(self, name: str | None = None) -> None:
        dist.barrier(group=self.group)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        box = [packed(obj) if self.rank == src else None]
        dist.broadcast_object_list(box, group=self.group, group_src=src)
        return unpacked(box[0])

    def fill(self, tensor: Tensor) -> None:
        there = carried(tensor, self.group)
        dist.broadcast(there, group=self.group, group_src=0)
        if there is not tensor:
            tensor.copy_(there)

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        whole = carried(tensor.detach().clone(), self.group)
        dist.all_reduce(whole, _OPERATIONS[op], group=self.group)
        return whole.to(tensor.device)

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        group = self.group if group is None else group
        return self.every.all_gather(carried(tensor, group), group, sync_grads).to(tensor.device)

    def gather_objects(self, obj: Any) -> list[Any]:
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, on_cpu(obj), group=self.group)
        return found

    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        return self.every.agree(flags, clock)

    def talks_beside(self) -> Any:
        return self.every.talks_beside()

    def has_failed(self) -> bool:
        return self.every.has_failed()


def same_random_state(group: Any, device: torch.device) -> None:
    """Let the processes of ``group``, which have the same data, draw the same random numbers, as the first of them does: on the
    CPU, and on ``device``, which is each one's own."""
    for source in (torch, *(() if device.type == "cpu" else (torch.get_device_module(device),))):
        state = carried(source.get_rng_state(), group)
        dist.broadcast(state, group=group, group_src=0)
        source.set_rng_state(state.cpu())
