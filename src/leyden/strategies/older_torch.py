"""What sharding asks of PyTorch that is called otherwise, or is not there, in the older ones of the versions that run here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.errors import Unsupported


def _takes(function: Callable[..., Any], name: str) -> bool:
    return name in inspect.signature(function).parameters


def parameters_of(units: Sequence[Any]) -> Iterator[Any]:
    """What FSDP has of each parameter. In torch 2.11 and before, a unit has one group of parameters, or none."""
    for unit in units:
        state = unit._get_fsdp_state()
        groups = state._fsdp_param_groups if hasattr(state, "_fsdp_param_groups") else [state._fsdp_param_group]
        for group in filter(None, groups):
            yield from group.fsdp_params


def reshard_after_forward(unit: Any, wanted: bool) -> None:
    """Let an FSDP ``unit`` give its parameters back after each forward, or keep them. torch 2.6 says it once, to all of them."""
    if hasattr(unit, "set_reshard_after_forward"):
        unit.set_reshard_after_forward(wanted, recurse=False)
        return
    group = unit._get_fsdp_state()._fsdp_param_group
    if group is not None:
        group.post_forward_mesh_info = group.mesh_info if wanted else None


def check_ignored() -> None:
    """Raises :class:`Unsupported` where FSDP cannot leave parameters out, as in torch 2.6."""
    from torch.distributed.fsdp import fully_shard

    if not _takes(fully_shard, "ignored_params"):
        raise Unsupported(
            f"ignored_params, ignored_modules and ignored_states need torch 2.7 or later, and this is {torch.__version__}. "
            f"Update torch, or leave them out."
        )


def check_device(device: torch.device) -> None:
    """Raises :class:`Unsupported` where FSDP cannot train on ``device``: on CPUs, by torch 2.6."""
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise Unsupported(
            f"Parameters in shards train on CPUs by torch 2.7 or later, and this is {torch.__version__}. "
            f"Update torch, or train on GPUs."
        )


def cut(value: Tensor, mesh: Any, placements: Any) -> Tensor:
    """The shard of ``value``, which every process has whole, without an exchange."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if _takes(distribute_tensor, "src_data_rank"):
        return distribute_tensor(value, mesh, placements, src_data_rank=None)
    part = value.detach()  # torch 2.6 would have the first process send it
    for dimension, placement in enumerate(placements):
        if not placement.is_replicate():
            parts, _ = placement._split_tensor(part, mesh.size(dimension), with_padding=False)
            part = parts[mesh.get_local_rank(dimension)]
    return DTensor.from_local(part, mesh, placements, shape=value.shape, stride=value.stride())
