"""Batches that one of two real processes skips, under optimizers with a closure, several of them, and overrides of the step;
also where the run is cut in the middle of a window, or the epoch is left there."""

from __future__ import annotations

from pathlib import Path
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


def skipped_alone(rank: int, batch_idx: int) -> bool:
    return rank == 1 and batch_idx < 5


class OwnStep(leyden.LightningModule):
    skipped = staticmethod(skipped)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer()])

    def loss(self, x: Tensor, number: int = 0) -> Tensor:
        return self.layers[number](x).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if self.skipped(self.global_rank, batch_idx) else self.loss(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)


class Lbfgs(OwnStep):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), 0.1, max_iter=4, line_search_fn="strong_wolfe")


class InTurn(leyden.LightningModule):
    """Several optimizers, as in 2020."""

    skipped = staticmethod(skipped)
    loss = OwnStep.loss

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([layer(), layer()])

    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        return None if self.skipped(self.global_rank, batch_idx) else self.loss(batch[0], optimizer_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9) for each in self.layers]


class InTurnAlone(InTurn):
    """Process 1 has nothing in the first window, and in the second less than the other one."""

    skipped = staticmethod(skipped_alone)


class InTurnLeft(InTurnAlone):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 5 else None


CASES: dict[str, tuple[Any, int, int]] = {  # a module, the batches of a window, and those of the epoch
    "own step": (OwnStep, 3, 8),
    "lbfgs": (Lbfgs, 1, 8),
    "in turn": (InTurn, 3, 8),
    "in turn, by one alone": (InTurnAlone, 3, 8),
    "in turn, left inside a window": (InTurnLeft, 3, 5),
}
CUT_AFTER = 4  # the second batch of a window


def by_hand(make: Any, window: int, count: int) -> tuple[dict[str, Tensor], int]:
    torch.manual_seed(3)
    module, steps = make(), 0
    made = module.configure_optimizers()
    for start in range(0, count, window):
        batches = range(start, min(count, start + window))
        taken = [rows(16)[2 * batch + rank][None] for batch in batches for rank in range(2) if not make.skipped(rank, batch)]
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


class Saving(leyden.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == CUT_AFTER:
            trainer.save_checkpoint(self.path)


def trained(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (make, window, _) in CASES.items():
        path, found[name] = Path(folder, f"{name}.ckpt"), []
        for callbacks, start in (([Saving(path)], None), ([], path)):
            torch.manual_seed(3)
            module, sync = make(), Marks()
            run = kit.trainer(devices=2, accumulate_grad_batches=window, plugins=[sync], callbacks=callbacks)
            run.fit(module, DataLoader(TensorDataset(rows(16)), 1), ckpt_path=start)
            found[name].append((kit.weights(module), run.global_step, sync.heard))
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return together(2, trained, str(tmp_path_factory.mktemp("skipped")))


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("name", CASES)
def test_the_rest_of_the_batches_is_the_mean(two: list[dict[str, Any]], name: str, cut: bool) -> None:
    weights, steps = by_hand(*CASES[name])
    for found in two:
        assert found[name][cut][1] == steps
        for key, value in weights.items():
            assert torch.allclose(value, found[name][cut][0][key], atol=1e-9), key
    assert kit.same(two[0][name][cut][0], two[1][name][cut][0])


def test_a_layer_sync_of_the_user_s_is_applied_and_reverted(two: list[dict[str, Any]]) -> None:
    assert [found["own step"][0][2] for found in two] == [["apply", "revert"]] * 2
