"""What a module keeps of a validation's forward can be trained with."""

from __future__ import annotations

from collections import defaultdict, deque, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden.data.reachable import make_normal

Pair = namedtuple("Pair", "first second")


class Keeps(nn.Module):
    kept: Any = None


class Table(dict[str, Any]):
    """A dict of the user's own."""


def stored(module: Keeps, value: Any) -> None:
    module.kept = value


PLACES = {
    "an attribute": stored,
    "a buffer": lambda module, value: module.register_buffer("table", value),
    "a list": lambda module, value: stored(module, [1, value]),
    "a dict": lambda module, value: stored(module, {"a": {2: value}}),
    "a deque": lambda module, value: stored(module, deque([value])),
    "a default dict": lambda module, value: stored(module, defaultdict(list, {1: [value]})),
    "a dict of its own class": lambda module, value: stored(module, Table(a=value)),
    "a parameter": lambda module, value: setattr(module, "weight", nn.Parameter(value)),
    "a tuple": lambda module, value: stored(module, (value, (value,))),
    "a named tuple in a list": lambda module, value: stored(module, [Pair(value, 1)]),
    "a layer's": lambda module, value: stored(module[0], value),
}


def tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    if isinstance(held, nn.Module):
        return [t for m in held.modules() for t in [*m.buffers(False), *m.parameters(False), *tensors(getattr(m, "kept", None))]]
    inside = held.values() if isinstance(held, dict) else held if isinstance(held, list | tuple | deque) else ()
    return [tensor for item in inside for tensor in tensors(item)]


@pytest.mark.parametrize("place", PLACES)
def test_an_inference_tensor_becomes_a_normal_one(place: str) -> None:
    class Module(nn.Sequential, Keeps):
        pass

    module = Module(Keeps())
    with torch.inference_mode():
        PLACES[place](module, torch.arange(3.0))
    assert any(tensor.is_inference() for tensor in tensors(module))
    make_normal(module)
    assert tensors(module)
    for tensor in tensors(module):
        assert not tensor.is_inference()
        assert tensor.tolist() == [0, 1, 2]
