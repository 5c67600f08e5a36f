"""Tensors of which each process holds a shard: put together, taken apart, made alike, clipped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from leyden.distributed.backends import carried
from leyden.distributed.processes import Processes
from leyden.metrics.left_behind import taken_over
from leyden.strategies import older_torch

SMALL = 64
"""Numbers in a tensor of a checkpoint that every process is sent with the outline; a larger one is sent when it is loaded."""
_BUCKET = 2**24
_PLACES = ("made", "data", "samplers", "evaluation", "flight")


def is_sharded(tensor: Any) -> bool:
    """Whether ``tensor`` is a :class:`torch.distributed.tensor.DTensor`, which nobody has to import to ask."""
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def local(tensor: Any) -> Any:
    """This process's shard of ``tensor``, or the whole where there are no shards."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def laid_as(gradient: Any, parameter: Any) -> Any:
    """``gradient`` in shards as ``parameter`` is: that of a layer that each process has whole may be a sum still to be made."""
    return gradient if gradient.placements == parameter.placements else gradient.redistribute(placements=parameter.placements)


def place_of(tensor: Any) -> tuple[list[int], list[Tensor]]:
    """The whole shape of a sharded ``tensor``, and for each dimension which of its numbers are in this process's shard."""
    mesh, shape = tensor.device_mesh, tensor.shape
    found = []
    for dim, size in enumerate(shape):
        others = [mesh.size()] * (len(shape) - 1)  # enough for each process to have some
        numbers = torch.arange(size).expand(*others, size).movedim(-1, dim)
        mine = local(older_torch.cut(numbers.to(mesh.device_type), mesh, tensor.placements)).movedim(dim, -1)
        found.append(mine[(0,) * len(others)].cpu().clone())
    return list(shape), found


def shard_like(shard: Tensor, parameter: Any) -> Tensor | None:
    """``shard``, which :func:`local` returned of a gradient, as the gradient of ``parameter``; ``None`` where it does not fit."""
    if not is_sharded(parameter):
        return shard.to(parameter)
    mine = parameter.to_local()
    if shard.shape != mine.shape:  # from a run of another number of processes
        return None
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        shard.to(mine), parameter.device_mesh, parameter.placements, shape=parameter.shape, stride=parameter.stride()
    )


def own_of(kept: Sequence[Mapping[str, Any]], processes: Processes, peers: Processes, in_shards: bool) -> Mapping[str, Any]:
    """What a checkpoint ``kept`` of this process. Of a window of gradients that other processes than these had opened it gets
    the mean of what each of them had, so that the window ends as the mean of all of its batches.

    Args:
        kept: of every process there was, by rank.
        processes: those that there are.
        peers: those of them that read other data than this one.
        in_shards: whether the gradients of a window are, where there were as many.
    """
    readers = list({each.get("reader", rank): each for rank, each in reversed(list(enumerate(kept)))}.values())[::-1]
    as_before = len(kept) == processes.world and len(readers) == peers.world
    if as_before:
        own = kept[processes.rank]
    else:  # a process that reads what none has read begins where the first one's data is: the rest is shared out from there
        own = readers[peers.rank] if peers.rank < len(readers) else _of_a_newcomer(readers[0])
        if gone := readers[peers.rank + peers.world :: peers.world]:
            own = taken_over(own, gone)
    every = [each.get("gradients") or {} for each in kept]
    if not any(every) or (as_before and (in_shards or not any(each.get("shards") for each in every))):
        return own
    counts = [each.get("contributed", 0) for each in every]
    contributed: Any = _mean(counts) if not isinstance(counts[0], list) else [_mean(each) for each in zip(*counts, strict=True)]
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for each in every for name in each.get("gradients", ())):
        parts = [each["gradients"][name] for each in every if name in each.get("gradients", ())]
        found[name] = torch.stack(parts).sum(0).div_(len(kept))
    for name in dict.fromkeys(name for each in every for name in each.get("shards", ())):
        found[name] = _joined([each for each in every if name in each.get("shards", ())], name)
    divisor = next((each["divisor"] for each in every if each.get("divisor")), 0)
    return {**own, "gradients": {"contributed": contributed, "divisor": divisor, "gradients": found}}


def _joined(every: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    """The whole of what ``every`` process had a shard of."""
    parts = [each["shards"][name] for each in every]
    if any(name not in each.get("places", ()) for each in every):  # by an earlier version
        return torch.cat(parts)
    found: Tensor = parts[0].new_zeros(every[0]["places"][name][0])
    for each, part in zip(every, parts, strict=True):
        place = each["places"][name][1]
        found[torch.meshgrid(*place, indexing="ij") if place else ...] = part
    return found


def _of_a_newcomer(first: Mapping[str, Any]) -> dict[str, Any]:
    """What a process that was not there begins with: the first one's place in the data, and names of metrics without values."""
    found = {name: first[name] for name in _PLACES if name in first}
    logged = first.get("metrics")
    if isinstance(logged, Mapping) and "collections" in logged:
        emptied = {
            stage: [{**each, "empty": True, "touched": each["touched"] and each["metric"] is not None} for each in entries]
            for stage, entries in logged["collections"].items()
        }
        running = logged.get("running")
        found["metrics"] = {**logged, "collections": emptied, "running": running and {**running, "objects": {}}}
    return found


def _mean(counts: Sequence[float]) -> float:
    total = sum(counts) / len(counts)
    return int(total) if total == int(total) else total


def whole(tree: Any, keep: bool) -> Any:
    """``tree`` of dicts and lists with each sharded tensor put together on the CPU. Called on every process.

    Where it is not to be kept, ``None`` stands in its place: no process but the first holds more than one tensor whole.
    """
    if isinstance(tree, dict):
        renewed = {key: whole(value, keep) for key, value in tree.items()}
        return tree if all(renewed[key] is value for key, value in tree.items()) else renewed
    if type(tree) in (list, tuple):
        items = [whole(value, keep) for value in tree]
        return tree if all(mine is theirs for mine, theirs in zip(items, tree, strict=True)) else type(tree)(items)
    if not is_sharded(tree):
        return tree
    with torch.no_grad():
        there = tree.detach()
        if there.device.type != there.device_mesh.device_type:  # offloaded, and exchanged where the mesh is
            there = there.to(there.device_mesh.device_type)
        full = there.full_tensor()
    return full.cpu() if keep else None


def outlined(checkpoint: Any) -> Any:
    """``checkpoint`` with weights and optimizers' tensors as mere shapes, but for the smallest: for those who did not read it."""
    if not isinstance(checkpoint, Mapping):
        return checkpoint
    plain = dict(checkpoint)
    for name in ("state_dict", "current_model_state"):  # the second is that of an average's training
        if isinstance(plain.get(name), Mapping):
            plain[name] = _shapes(plain[name])
    states = plain.get("optimizer_states")
    if isinstance(states, list):
        plain["optimizer_states"] = [
            {**each, "state": {number: _shapes(values) for number, values in each["state"].items()}}
            if isinstance(each, Mapping) and isinstance(each.get("state"), Mapping)
            else each
            for each in states
        ]
    return plain


def _shapes(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return {
        key: torch.empty_like(value, device="meta") if type(value) is Tensor and value.numel() > SMALL else value
        for key, value in values.items()
    }


class Arrival:
    """What a checkpoint held, brought to the processes that have only its outline, and cut as the tensors here are.

    Every process makes one, and asks it for the same tensors in the same order. Where nobody has a mere outline, nothing is
    exchanged but that.
    """

    def __init__(self, values: Iterable[Any], device: torch.device) -> None:
        lacking = any(isinstance(value, Tensor) and value.is_meta for value in values)
        flag = torch.tensor(int(lacking), device=device)
        if dist.get_world_size() > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX)
        self.is_sent, self.device = bool(flag), device

    def of(self, value: Any, like: Any) -> Any:
        """``value`` whole, or where ``like`` is sharded and of the same shape, as such a shard."""
        if not isinstance(value, Tensor) or is_sharded(value):
            return value
        if self.is_sent and value.numel() > SMALL:
            if dist.get_rank() == 0:
                value = value.to(self.device).contiguous()
            else:
                value = torch.empty(value.shape, dtype=value.dtype, device=self.device)
            dist.broadcast(value.view(-1).view(torch.uint8), 0)  # backends know few types of numbers
        return cut(value, like) if is_sharded(like) and value.shape == like.shape else value


def cut(value: Tensor, like: Any) -> Tensor:
    """The shard of ``value``, which every process has whole, that ``like`` is of its own."""
    if not is_sharded(like):
        return value
    mesh = like.device_mesh
    mine = older_torch.cut(value.to(mesh.device_type), mesh, like.placements)
    return mine if mine.device == like.device else mine.to(like.device)


def synchronise(tensors: Iterable[Tensor]) -> None:
    """Give ``tensors`` the values of the first process, in a few exchanges."""
    waiting: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        waiting.setdefault((tensor.dtype, tensor.device), []).append(tensor.detach())
    with torch.no_grad():
        for group in waiting.values():
            for bucket in _buckets(group):
                flat = carried(torch.cat([tensor.reshape(-1) for tensor in bucket]))
                dist.broadcast(flat.view(torch.uint8), 0)  # backends know few types of numbers
                for tensor, values in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                    tensor.copy_(values.view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(each.numel() for each in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def clip(parameters: Sequence[Tensor], value: float, by: str) -> None:
    """Clip the gradients of ``parameters`` in place, by their total ``"norm"`` or each ``"value"``, on any meshes."""
    groups: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            mesh = parameter.grad.device_mesh if is_sharded(parameter.grad) else None  # type: ignore[attr-defined]  # a DTensor's
            groups.setdefault(mesh, []).append(parameter)
    if by != "norm":
        for group in groups.values():
            nn.utils.clip_grad_value_(group, value)
        return
    norms = [nn.utils.get_total_norm([each.grad for each in group if each.grad is not None]) for group in groups.values()]
    if not norms:
        return
    whole_norms = [norm.full_tensor() if is_sharded(norm) else norm for norm in norms]  # type: ignore[attr-defined]  # a DTensor's
    total = torch.linalg.vector_norm(torch.stack([norm.to(whole_norms[0].device) for norm in whole_norms]))
    for group in groups.values():
        nn.utils.clip_grads_with_norm_(group, value, total)


def plain_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers of ``module`` that are not sharded."""
    for tensor in (*module.parameters(), *module.buffers()):
        if not is_sharded(tensor):
            yield tensor


def fill(module: nn.Module, device: torch.device) -> Iterator[str]:
    """Give tensors on the meta device memory and, by ``reset_parameters``, values. Yields the names of layers without that."""
    for name, layer in module.named_modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        if not any(tensor.is_meta for tensor in own):
            continue
        reset: Callable[[], Any] | None = getattr(layer, "reset_parameters", None)
        layer.to_empty(device=device, recurse=False)
        if reset is None:
            yield name or type(layer).__name__
        else:
            reset()
