"""Move nested batches, and optimizer states, to a device."""

from __future__ import annotations

from abc import ABCMeta
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.tree import tree_map


class _MovableKind(ABCMeta):
    def __instancecheck__(cls, instance: Any) -> bool:
        return callable(getattr(type(instance), "to", None))


class Movable(metaclass=_MovableKind):
    """Whatever has a method ``to(device)``: tensors, packed sequences, batches of other libraries."""


def move_data_to_device(batch: Any, device: torch.device | str | int) -> Any:
    """``batch`` with everything in it that has a method ``to`` on ``device``; the containers given are not changed.

    Dicts, lists, tuples, named tuples and dataclasses are followed. Tensors move without waiting for the copy.
    """
    target = torch.device(device)
    non_blocking = target.type == "cuda"  # elsewhere a copy that is not awaited may be read too early

    def to(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(target, non_blocking=non_blocking)
        moved = leaf.to(target)
        return leaf if moved is None else moved  # some classes move in place and return nothing

    return tree_map(batch, Movable, to)


def move_optimizer_state(optimizer: Optimizer, device: torch.device | str) -> None:
    """Put the tensors that ``optimizer`` keeps per parameter on ``device``, in place; step counts stay where they are."""
    for state in optimizer.state.values():
        for key, value in state.items():
            if key != "step":
                state[key] = tree_map(value, Tensor, lambda tensor: tensor.to(device))  # LBFGS keeps lists
