"""A trial run: steps that leave no trace, before a fit and inside one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import kit
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.checkpoint.random_state import random_state
from leyden.testing import Recorder


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.own = torch.Generator().manual_seed(8)
        self.last.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        noise = torch.rand(1, generator=self.own) + random.random() + np.random.rand()
        hidden = nn.functional.dropout(self.norm(self.layer(batch[0])), 0.4)
        loss = self.last(hidden).sub(float(noise)).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "step"}]


class ByHand(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return loss


def batches() -> DataLoader[Any]:
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(data), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(4))


def everything(trainer: leyden.Trainer, module: Net) -> dict[str, Any]:
    seen = {
        "weights": dict(module.state_dict()),
        "gradients": [parameter.grad for parameter in module.parameters()],
        "modes": [child.training for child in module.modules()],
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [each.scheduler.state_dict() for each in trainer.lr_scheduler_configs],
        "random": random_state(),
        "own": module.own.get_state(),
        "progress": trainer.leyden_fit.progress.state_dict(),
        "metrics": dict(trainer.callback_metrics),
        "callbacks": len(trainer.callbacks),
        "loggers": len(trainer.loggers),
    }
    return copy.deepcopy(seen)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor | np.ndarray):
        return bool((first == second).all())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def losses(trainer: leyden.Trainer, module: Any, *args: Any, steps: int = 7) -> list[float]:
    with trainer.trial_run(module, *args, steps=steps) as trial:
        return [float(trial.step(batch)) for batch in trial.batches()]


@pytest.mark.parametrize("net", [Net, ByHand])
def test_before_a_fit_nothing_is_left_of_it(net: Callable[[], Any]) -> None:
    recorder = Recorder()
    trainer, module, data = leyden.Trainer(**kit.QUIET, max_epochs=1, callbacks=[recorder]), net(), batches()
    leyden.seed_everything(1)
    before, state = everything(trainer, module), data.generator.get_state()
    found = losses(trainer, module, data)
    assert len(found) == 7
    assert len(set(found)) == 7
    after = everything(trainer, module)
    assert [name for name in before if not same(before[name], after[name])] == []
    assert torch.equal(state, data.generator.get_state())
    assert recorder.names == []
    assert found == losses(trainer, module, data), "and so it comes out the same again"


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_batch_end", "on_train_epoch_end"])
@pytest.mark.parametrize("net", [Net, ByHand])
def test_inside_a_fit_the_run_goes_on_as_if_there_had_been_none(hook: str, net: Callable[[], Any]) -> None:
    def fit(tries: bool) -> tuple[dict[str, Any], list[float]]:
        found: list[float] = []

        class Tries(leyden.Callback):
            pass

        def attempt(self: Any, trainer: Any, pl_module: Any, *_: Any) -> None:
            if tries:
                before = everything(trainer, pl_module)
                found.extend(losses(trainer, pl_module, steps=3))
                assert same(before, everything(trainer, pl_module))

        setattr(Tries, hook, attempt)
        leyden.seed_everything(1)
        module = net()
        trainer = leyden.Trainer(**kit.QUIET, max_epochs=2, callbacks=[Tries()])
        trainer.fit(module, batches())
        return everything(trainer, module), found

    plain, _ = fit(tries=False)
    tried, found = fit(tries=True)
    assert len(found) >= 3
    assert [name for name in plain if name != "callbacks" and not same(plain[name], tried[name])] == []


def test_a_module_in_eval_mode_is_in_eval_mode_afterwards() -> None:
    trainer, module = leyden.Trainer(**kit.QUIET, max_epochs=1), Net()
    module.eval()
    module.norm.train()
    with pytest.warns(leyden.errors.LeydenWarning, match="was in eval mode"):
        losses(trainer, module, batches(), steps=2)
    assert [name for name, child in module.named_modules() if child.training] == ["norm"]


def test_everything_is_put_back_when_a_step_raises() -> None:
    class Breaks(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 2:
                raise ZeroDivisionError("mine")
            return super().training_step(batch, batch_idx)

    trainer, module = leyden.Trainer(**kit.QUIET, max_epochs=1), Breaks()
    leyden.seed_everything(1)
    before = everything(trainer, module)
    with pytest.raises(ZeroDivisionError):
        losses(trainer, module, batches())
    assert same(before, everything(trainer, module))
    module.__class__ = Net
    trainer.fit(module, batches())
    assert trainer.global_step == 5


def test_what_the_trial_changes_of_an_optimizer_is_its_own() -> None:
    trainer, module = leyden.Trainer(**kit.QUIET, max_epochs=1), Net()
    rates = []

    class Raises(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            with trainer.trial_run(pl_module, steps=2) as trial:
                for batch in trial.batches():
                    trial.optimizers[0].param_groups[0]["lr"] *= 10
                    trial.step(batch)
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer.callbacks.append(Raises())
    trainer.fit(module, batches())
    assert rates == [0.1]
