"""Batches that one of two real processes skips, under optimizers with a closure, several of them, and overrides of the step."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.plugins import LayerSync


def rows(count: int) -> Tensor:
    """In double precision: in single, a line search turns another order of additions into other weights (1e-3)."""
    return torch.arange(3 * count, dtype=torch.float64).view(count, 3) / count


def layer() -> nn.Linear:
    return nn.Linear(3, 1, dtype=torch.float64)


def skipped(rank: int, batch_idx: int) -> bool:
    return (rank == 1 and batch_idx % 3 == 1) or batch_idx == 5


class OwnStep(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer()])

    def loss(self, x: Tensor, number: int = 0) -> Tensor:
        return self.layers[number](x).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if skipped(self.global_rank, batch_idx) else self.loss(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)


class Lbfgs(OwnStep):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), 0.1, max_iter=4, line_search_fn="strong_wolfe")


class InTurn(leyden.LightningModule):
    """Several optimizers, as in 2020."""

    loss = OwnStep.loss

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(), layer()])

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        return None if skipped(self.global_rank, batch_idx) else self.loss(batch[0], optimizer_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in self.layers]


CASES: dict[str, tuple[Any, int]] = {"own step": (OwnStep, 3), "lbfgs": (Lbfgs, 1), "in turn": (InTurn, 3)}


def by_hand(make: Any, window: int) -> tuple[dict[str, Tensor], int]:
    torch.manual_seed(3)
    module, steps = make(), 0
    made = module.configure_optimizers()
    for start in range(0, 8, window):
        batches = range(start, min(8, start + window))
        taken = [rows(16)[2 * batch + rank][None] for batch in batches for rank in range(2) if not skipped(rank, batch)]
        steps += bool(taken)
        for number, optimizer in enumerate(made if isinstance(made, list) else [made]) if taken else ():

            def closure(optimizer: Any = optimizer, number: int = number, taken: Any = taken) -> Tensor:
                optimizer.zero_grad()
                loss = torch.stack([module.loss(x, number) for x in taken]).mean()
                loss.backward()
                return loss

            optimizer.step(closure)
    return kit.weights(module), steps


class Marks(LayerSync):
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def apply(self, model: nn.Module) -> nn.Module:
        self.heard.append("apply")
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        self.heard.append("revert")
        return model


def trained() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (make, window) in CASES.items():
        torch.manual_seed(3)
        module, sync = make(), Marks()
        run = kit.trainer(devices=2, accumulate_grad_batches=window, plugins=[sync])
        run.fit(module, DataLoader(TensorDataset(rows(16)), 1))
        found[name] = kit.weights(module), run.global_step, sync.heard
    return found


@pytest.fixture(scope="module")
def two() -> list[dict[str, Any]]:
    return together(2, trained)


@pytest.mark.parametrize("name", CASES)
def test_the_rest_of_the_batches_is_the_mean(two: list[dict[str, Any]], name: str) -> None:
    weights, steps = by_hand(*CASES[name])
    for found in two:
        assert found[name][1] == steps
        for key, value in weights.items():
            assert torch.allclose(value, found[name][0][key], atol=1e-9), key
    assert kit.same(two[0][name][0], two[1][name][0])


def test_a_layer_sync_of_the_user_s_is_applied_and_reverted(two: list[dict[str, Any]]) -> None:
    assert [found["own step"][2] for found in two] == [["apply", "revert"]] * 2
