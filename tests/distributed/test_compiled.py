"""Modules that torch.compile has compiled, whole or in part, in two real processes: the numbers of the eager module in one."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden


class Net(leyden.LightningModule):
    def __init__(self, compiled: str = "", by_hand: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.compiled, self.automatic_optimization = compiled, not by_hand
        if compiled == "in place":
            self.net.compile(backend="eager")
        elif compiled == "a layer":
            self.net[0] = torch.compile(self.net[0], backend="eager")

    def configure_model(self) -> None:
        if self.compiled == "configure_model" and isinstance(self.net, nn.Sequential):
            self.net = torch.compile(self.net, backend="aot_eager")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss, on_step=False, on_epoch=True)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", self.net(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def fitted(size: int, compiled: str = "", by_hand: bool = False, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    module: Any = Net(compiled, by_hand)
    run = kit.trainer(**options)
    data = TensorDataset(torch.arange(48.0).view(16, 3) / 16)
    given = torch.compile(module, backend="eager") if compiled == "whole" else module
    run.fit(given, DataLoader(data, size), DataLoader(data, 3))
    return kit.whole_weights(run), run.callback_metrics


PARTS = [("ddp", "a layer", True), ("fsdp", "in place", False)]
WHOLE = [("ddp", "whole", False), ("fsdp", "whole", True), ("ddp", "in place", False), ("fsdp", "configure_model", False)]


def trained(runs: Any) -> list[Any]:
    return [fitted(2, compiled, by_hand, devices=2, strategy=strategy) for strategy, compiled, by_hand in runs]


@pytest.mark.parametrize("runs", [PARTS, pytest.param(WHOLE, marks=pytest.mark.distributed)], ids=["parts", "whole"])
def test_compiled_modules_train_as_eager_ones(runs: Any) -> None:
    expected = fitted(4)
    for run, found in zip(runs, together(2, trained, runs)[0], strict=True):
        torch.testing.assert_close(found, expected, msg=lambda text, run=run: f"{run}: {text}")
