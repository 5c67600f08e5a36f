"""Which batches are copied beside the step before them. What the copies are, tests/test_on_a_gpu.py shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from leyden.devices.copy_ahead import copies_beside
from leyden.strategies import SingleDeviceStrategy
from leyden.strategies.movers import mover_of


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (torch.ones(2), True),
        (torch.ones(4, 4)[:, 1:], True),
        (torch.ones(2, requires_grad=True), False),
        (torch.eye(2).to_sparse(), False),
        (nn.Parameter(torch.ones(2)), False),
        (torch.ones(2, device="meta"), False),
        (nn.utils.rnn.pack_sequence([torch.ones(2)]), False),
    ],
)
def test_plain_tensors_of_the_cpu_alone_are_copied_beside(leaf: Any, expected: bool) -> None:
    assert copies_beside(leaf) is expected


class MovesItself(SingleDeviceStrategy):
    def leyden_move(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        return batch


class MovesAsLightningDoes(SingleDeviceStrategy):
    def batch_to_device(self, batch: Any, device: Any = None, dataloader_idx: int = 0) -> Any:
        return batch


@pytest.mark.parametrize("kind", [MovesItself, MovesAsLightningDoes])
def test_a_strategy_that_moves_in_its_own_way_goes_on_to_do_so(kind: type[SingleDeviceStrategy]) -> None:
    strategy = kind("cuda")
    if kind is MovesAsLightningDoes:
        from leyden.strategies.lightning_names import heed_overrides

        heed_overrides(strategy)
        assert mover_of(strategy) == strategy.batch_to_device
    else:
        assert mover_of(strategy) == strategy.leyden_move


def test_elsewhere_than_on_cuda_nothing_changes() -> None:
    strategy = SingleDeviceStrategy("cpu")
    assert mover_of(strategy) == strategy.leyden_move
