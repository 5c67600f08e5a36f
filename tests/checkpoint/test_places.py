"""Where the tensors of a state were. The meta device stands for one beside the CPU."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from leyden.checkpoint.places import marked, placed, unmarked

META = torch.device("meta")


class Pair(NamedTuple):
    x: Tensor
    y: Any


@dataclass
class Sample:
    x: Tensor
    name: str


def there() -> Tensor:
    return torch.rand(2, device=META)


def here() -> Tensor:
    return torch.arange(2.0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda each: each,
        lambda each: [each, 1],
        lambda each: (each, "a"),
        lambda each: {"a": {"b": [each]}, 3: None},
        lambda each: Pair(each, [each]),
        lambda each: Sample(each, "a"),
        lambda each: OrderedDict(a=each),
    ],
)
def test_on_the_device_again_or_on_the_cpu_where_they_were_there(wrap: Any) -> None:
    for tensor in (there(), here()):
        state = wrap(tensor)
        kept = marked(state, META)
        back = placed(kept, META)
        assert type(back) is type(state)
        assert devices(unmarked(kept)) == devices(state)
        found, expected = devices(back), devices(state)
        assert found == expected
        assert len(found) > 0


def devices(state: Any) -> list[str]:
    if isinstance(state, Tensor):
        return [state.device.type]
    parts = state.values() if isinstance(state, dict) else vars(state).values() if isinstance(state, Sample) else state
    return [device for part in parts if isinstance(part, Tensor | list | dict) for device in devices(part)]


def test_what_a_file_holds_was_on_the_device_unless_it_is_marked() -> None:
    read = {"loss": here(), "kept": marked(here(), META)}  # as a file is read: onto the CPU
    assert devices(placed(read, META)) == ["meta", "cpu"]
    assert devices(placed(read, torch.device("cpu"))) == ["cpu", "cpu"]


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_a_run_on_the_cpu_marks_nothing(device: Any) -> None:
    state = [here(), {"a": here()}]
    assert marked(state, device) is state
