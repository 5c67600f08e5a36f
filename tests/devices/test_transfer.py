"""Batches and optimizer states move to a device; what the caller holds stays as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from leyden.devices.transfer import move_data_to_device, move_optimizer_state


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Sample:
    x: Tensor
    label: str


class Graph:
    """A batch of another library: it moves itself, in place, and returns nothing."""

    def __init__(self) -> None:
        self.device = "cpu"

    def to(self, device: torch.device) -> None:
        self.device = str(device)


def test_everything_movable_in_a_batch_moves() -> None:
    x, graph = torch.ones(2), Graph()
    batch = {"pair": Pair(x, x), "samples": [Sample(x, "a")], "rest": (1, "b", None, Tensor), "graph": graph}
    moved = move_data_to_device(batch, "meta")
    assert isinstance(moved["pair"], Pair)
    assert moved["pair"].y.device.type == "meta"
    assert moved["samples"][0] == Sample(moved["samples"][0].x, "a")
    assert moved["samples"][0].x.device.type == "meta"
    assert moved["rest"] == (1, "b", None, Tensor)
    assert moved["graph"] is graph
    assert graph.device == "meta"
    assert batch["pair"].x is x  # type: ignore[attr-defined]  # the caller's batch is as it was


def test_packed_sequences_move_by_their_own_method() -> None:
    packed: Any = pack_sequence([torch.ones(3), torch.ones(2)])
    moved = move_data_to_device([packed], torch.device("meta"))[0]
    assert isinstance(moved, PackedSequence)
    assert moved.data.device.type == "meta"


def test_a_tensor_that_is_there_already_is_handed_on() -> None:
    x = torch.ones(2)
    assert move_data_to_device(x, "cpu") is x


def test_lists_in_an_optimizers_state_move_too() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([parameter], max_iter=4)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (parameter**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    move_optimizer_state(optimizer, "meta")
    (state,) = optimizer.state.values()
    assert {each.device.type for each in state["old_dirs"]} == {"meta"}
    assert state["func_evals"] > 0


def test_an_optimizers_state_moves_and_its_step_count_stays() -> None:
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    move_optimizer_state(optimizer, "meta")
    state = optimizer.state[net.weight]
    assert (state["exp_avg"].device.type, state["step"].device.type) == ("meta", "cpu")
