"""A search for a learning rate or a batch size leaves nothing but its value: what follows has the bits of a run by hand."""

from __future__ import annotations

import copy
import os
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

import leyden
from leyden.callbacks import BackboneFinetuning, BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from leyden.checkpoint.random_state import random_state
from leyden.loggers import CSVLogger
from leyden.testing import Recorder
from leyden.tuner import Tuner


class Turning(Sampler[int]):
    """Begins one further at each pass."""

    def __init__(self, size: int) -> None:
        self.size, self.passes = size, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Any:
        self.passes += 1
        return iter([(number + self.passes) % self.size for number in range(self.size)])


class Net(leyden.LightningModule):
    """Holds one of everything that a step may change."""

    def __init__(self, lr: float = 0.05, batch_size: int = 4, warmup: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(2)
        self.layer, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.seen = torchmetrics.MeanMetric()
        self.own = torch.Generator().manual_seed(8)
        self.collected: list[float] = []
        self.steps, self.frozen = 0, False
        self.register_buffer("average", torch.zeros(3))
        self.layer.bias.requires_grad_(False)
        self.sampler = Turning(24)
        self.order = torch.Generator().manual_seed(3)
        self.fails: Any = None

    def on_train_epoch_start(self) -> None:
        self.collected = []
        self.last.eval()
        self.layer.weight.requires_grad_(self.current_epoch % 2 == 0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.fails is not None and self.steps == 3:
            self.fails()
        self.steps += 1
        noise = torch.rand(1, generator=self.own) + random.random() + np.random.rand()
        inputs = torch.cat([part[0] for part in batch])
        hidden = nn.functional.dropout(self.norm(self.layer(inputs)), 0.4)
        loss = self.last(hidden).sub(float(noise)).pow(2).mean()
        self.average = 0.5 * self.average + inputs.mean(0)
        self.collected.append(loss.item())
        self.seen.update(loss.detach())
        self.log("seen", self.seen, on_epoch=True)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        slow = {"params": self.layer.parameters(), "lr": self.hparams.lr / 10}
        rest = [*self.norm.parameters(), *self.last.parameters()]
        optimizer = torch.optim.Adam([slow, {"params": rest}], lr=self.hparams.lr)
        if self.hparams.warmup:
            warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3)
            after = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
            scheduler: Any = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, after], [3])
        else:
            scheduler = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.hparams.lr, self.trainer.estimated_stepping_batches + 9
            )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def train_dataloader(self) -> Any:
        data = torch.randn(24, 3, generator=torch.Generator().manual_seed(3))
        shuffled = DataLoader(TensorDataset(data), batch_size=self.hparams.batch_size, shuffle=True, generator=self.order)
        turned = DataLoader(TensorDataset(data + 1), batch_size=self.hparams.batch_size, sampler=self.sampler)
        return [shuffled, turned]


def trainer(*callbacks: Any, **options: Any) -> leyden.Trainer:
    return kit.trainer(*callbacks, **{"max_epochs": 2, "accumulate_grad_batches": 2, "log_every_n_steps": 1, **options})


def everything(run: leyden.Trainer, module: Net) -> dict[str, Any]:
    plan = run.leyden_fit.plan
    seen = {
        "weights": module.state_dict(),
        "gradients": [parameter.grad for parameter in module.parameters()],
        "needs": [parameter.requires_grad for parameter in module.parameters()],
        "modes": [child.training for child in module.modules()],
        "attributes": {"collected": module.collected, "steps": module.steps, "passes": module.sampler.passes},
        "hparams": dict(module.hparams),
        "metric": module.seen.mean_value,
        "optimizers": [optimizer.state_dict() for optimizer in plan.optimizers],
        "schedulers": [each.scheduler.state_dict() for each in plan.schedulers],
        "random": random_state(),
        "own": [module.own.get_state(), module.order.get_state()],
        "progress": run.leyden_fit.progress.state_dict(),
        "metrics": dict(run.callback_metrics),
        "state": vars(run.state),
        "asked": run.leyden_fit.asked,
    }
    return copy.deepcopy(seen)


def fitted(module: Net, *callbacks: Any, **options: Any) -> dict[str, Any]:
    run = trainer(*callbacks, **options)
    run.fit(module)
    return everything(run, module)


SEARCHES = {
    "exponential": lambda run, net: Tuner(run).lr_find(net, num_training=25, max_lr=0.5),
    "linear": lambda run, net: Tuner(run).lr_find(net, num_training=25, min_lr=0.001, max_lr=0.5, mode="linear"),
    "power": lambda run, net: Tuner(run).scale_batch_size(net),
    "binsearch": lambda run, net: Tuner(run).scale_batch_size(net, mode="binsearch", max_val=13),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_after_a_search_a_fit_has_the_bits_of_one_by_hand(name: str, tmp_path: Path) -> None:
    leyden.seed_everything(1)
    module = Net()
    run = trainer(logger=CSVLogger(tmp_path / "logs"), default_root_dir=tmp_path)
    before = everything(run, module)
    assert SEARCHES[name](run, module) is not None
    after = everything(run, module)
    found = {key: after["hparams"][key] for key in ("lr", "batch_size")}
    assert found != {key: before["hparams"][key] for key in found}, "it was set"
    assert kit.differences({**before, "hparams": {**before["hparams"], **found}}, after) == []
    assert list(tmp_path.rglob("*")) == [], "nothing was written"
    run.fit(module)
    leyden.seed_everything(1)
    assert kit.differences(fitted(Net(**found)), everything(run, module)) == []


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(
    "make", [partial(LearningRateFinder, num_training_steps=25, max_lr=0.5), partial(BatchSizeFinder, max_val=12)]
)
def test_a_finder_in_the_fit_gives_the_bits_of_one_by_hand(make: Any, warmup: bool) -> None:
    leyden.seed_everything(1)
    module = Net(warmup=warmup)
    with_finder = fitted(module, make())
    found = {key: module.hparams[key] for key in ("lr", "batch_size")}
    assert found != {"lr": 0.05, "batch_size": 4}
    leyden.seed_everything(1)
    assert kit.differences(fitted(Net(warmup=warmup, **found)), with_finder) == []


class Broken(Exception):
    pass


def breaks() -> None:
    raise Broken


@pytest.mark.parametrize("name", SEARCHES)
def test_everything_is_put_back_when_a_step_raises(name: str, tmp_path: Path) -> None:
    leyden.seed_everything(1)
    run, module = trainer(logger=CSVLogger(tmp_path / "logs"), default_root_dir=tmp_path), Net()
    module.fails = breaks
    before = everything(run, module)
    with pytest.raises(Broken):
        SEARCHES[name](run, module)
    assert kit.differences(before, everything(run, module)) == []
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", ["exponential", "power"])
def test_ctrl_c_ends_a_search_and_everything_is_put_back(name: str) -> None:
    leyden.seed_everything(1)
    run, module = trainer(), Net()
    module.fails = partial(os.kill, os.getpid(), signal.SIGINT)
    before = everything(run, module)
    with pytest.raises(KeyboardInterrupt):
        SEARCHES[name](run, module)
    assert kit.differences(before, everything(run, module)) == []
    assert not run.interrupted
    module.fails = None
    run.fit(module)
    assert run.global_step > 0


def test_ctrl_c_in_a_finder_ends_the_fit() -> None:
    module = Net()
    module.fails = partial(os.kill, os.getpid(), signal.SIGINT)
    weights = kit.weights(module)
    run = trainer(LearningRateFinder())
    assert run.fit(module).status == "interrupted"
    assert kit.same(weights, kit.weights(module))
    assert module.hparams.lr == 0.05


def test_a_search_between_epochs_changes_nothing_but_the_rate() -> None:
    class Looks(LearningRateFinder):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            before = everything(trainer, pl_module)
            self.lr_find(trainer, pl_module)
            assert kit.differences(before, everything(trainer, pl_module)) == []

    leyden.seed_everything(1)
    looked = fitted(Net(), Looks(num_training_steps=12, update_attr=False))
    leyden.seed_everything(1)
    assert kit.differences(fitted(Net()), looked) == []


def test_a_search_before_a_fit_keeps_what_the_last_fit_has_to_tell() -> None:
    leyden.seed_everything(1)
    run, module = trainer(), Net()
    run.fit(module)
    before = everything(run, module)
    Tuner(run).lr_find(module, num_training=12, update_attr=False)
    assert kit.differences(before, everything(run, module)) == []
    assert "loss_epoch" in run.callback_metrics


@pytest.mark.parametrize("make", [partial(LearningRateFinder, num_training_steps=25), partial(BatchSizeFinder, max_val=12)])
def test_a_run_with_a_finder_goes_on_after_a_kill_to_the_same_bits(make: Any, tmp_path: Path, caplog: Any) -> None:
    def start(*more: Any, ckpt_path: Any = None) -> tuple[dict[str, Any], Any, Net]:
        finder, module = make(), Net()
        run = trainer(finder, *more, enable_checkpointing=True, default_root_dir=tmp_path)
        run.fit(module, ckpt_path=ckpt_path)
        return everything(run, module), finder, module

    def dies() -> None:
        raise kit.Crash

    writer = partial(ModelCheckpoint, every_n_train_steps=1, save_top_k=-1, dirpath=tmp_path / "kept")
    leyden.seed_everything(1)
    whole, finder, _ = start(writer(dirpath=tmp_path / "whole"))
    leyden.seed_everything(1)
    with pytest.raises(kit.Crash):
        start(writer(), kit.at_batch(3, dies))
    leyden.seed_everything(9)
    with caplog.at_level("INFO", "leyden"):
        resumed, again, _ = start(writer(), ckpt_path="last")
    assert "does not search: the run goes on from" in caplog.text
    assert kit.differences({**whole, "attributes": None}, {**resumed, "attributes": None}) == []
    if isinstance(finder, LearningRateFinder):
        assert again.optimal_lr.results == finder.optimal_lr.results
    else:
        assert again.optimal_batch_size == finder.optimal_batch_size == 12


def test_callbacks_hear_nothing_of_it() -> None:
    heard = Recorder()
    run, module = trainer(heard), Net()
    Tuner(run).lr_find(module, num_training=3, update_attr=False)
    Tuner(run).scale_batch_size(module, max_trials=2)
    assert heard.names == []
    assert [callback for callback in run.callbacks if callback is heard] == [heard]


def test_what_a_finetuning_callback_freezes_is_frozen_in_a_search_and_as_it_was_afterwards() -> None:
    class Backbone(Net):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Sequential(self.norm)

        def on_train_epoch_start(self) -> None:
            TRAINED.append((self.norm.weight.requires_grad, self.norm.track_running_stats))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam([each for each in self.parameters() if each.requires_grad], lr=self.hparams.lr)

    class Freezes(BackboneFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone, train_bn=False)

    TRAINED: list[Any] = []
    module = Backbone()
    run = trainer(Freezes(unfreeze_backbone_at_epoch=9))
    before = everything(run, module)
    Tuner(run).lr_find(module, num_training=4, update_attr=False)
    assert set(TRAINED) == {(False, False)}
    assert kit.differences(before, everything(run, module)) == []
    assert module.norm.track_running_stats
