"""Making a module's parameters in the run's precision, and without filling them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leyden


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64), ("bf16-true", torch.bfloat16)]
)
def test_parameters_are_made_in_the_runs_precision(precision: str, dtype: torch.dtype) -> None:
    with leyden.Trainer(accelerator="cpu", precision=precision, logger=False).init_module():
        layer = nn.Linear(2, 2)
    assert layer.weight.dtype is dtype
    assert torch.get_default_dtype() is torch.float32


def test_empty_parameters_draw_nothing() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with leyden.Trainer(accelerator="cpu", logger=False).init_module(empty_init=True):
        layer = nn.Linear(64, 64)
    assert torch.equal(torch.rand(3), expected)
    assert layer.weight.shape == (64, 64)
    assert layer.weight.device.type == "cpu"
