"""Where the tensors of a state were: on the run's own device, or beside it on the CPU. A file is read onto the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leyden.tree import tree_map

_BESIDE = "leyden: beside the device, on the CPU"


class _PlaceableKind(type):
    def __instancecheck__(cls, each: Any) -> bool:
        return isinstance(each, Tensor) or (type(each) is dict and list(each) == [_BESIDE])


class _Placeable(metaclass=_PlaceableKind):
    """A tensor, or one with its mark."""


def marked(state: Any, device: Any) -> Any:
    """``state`` with a mark at each tensor that is on the CPU while ``device``, the run's own, is another."""
    if device is None or torch.device(device).type == "cpu":
        return state
    return tree_map(state, Tensor, lambda tensor: {_BESIDE: tensor} if tensor.device.type == "cpu" else tensor)


def unmarked(state: Any) -> Any:
    """``state`` without marks, wherever its tensors are now."""
    return tree_map(state, _Placeable, lambda each: each[_BESIDE] if type(each) is dict else each)


def placed(state: Any, device: Any) -> Any:
    """``state`` without marks, on ``device`` but for the tensors that had one, and those of the meta device."""

    def there(each: Any) -> Any:
        return each[_BESIDE] if type(each) is dict else each if each.is_meta else each.to(device)

    return tree_map(state, _Placeable, there)
