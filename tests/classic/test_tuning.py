"""Searches as 0.7 to 1.9 had them."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.errors import LeydenWarning, UnknownName, Unsupported

pytestmark = pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")


class Net(leyden.LightningModule):
    def __init__(self, lr: float = 0.02, batch_size: int = 2) -> None:
        super().__init__()
        self.hparams = {"lr": lr, "batch_size": batch_size}  # type: ignore[assignment]  # 2020's way
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.layer(batch[0]).square().mean()}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(60, 2)), batch_size=self.hparams["batch_size"])

    val_dataloader = train_dataloader


def test_fit_searches_for_what_the_trainer_was_asked_to_find() -> None:
    module = Net()
    trainer = kit.trainer(auto_lr_find=True, auto_scale_batch_size="power")
    trainer.fit(module)
    assert module.hparams["batch_size"] == 64
    assert module.hparams["lr"] == trainer.optimizers[0].param_groups[0]["lr"] != 0.02
    assert trainer.global_step == 1
    trainer.validate(module)


def test_tune_searches_now_and_fit_not_again() -> None:
    module = Net()
    trainer = kit.trainer(auto_lr_find=True, auto_scale_batch_size="binsearch")
    found = trainer.tune(module, scale_batch_size_kwargs={"max_val": 20, "margin": 0.0}, lr_find_kwargs={"num_training": 30})
    assert list(found) == ["scale_batch_size", "lr_find"]
    assert found["scale_batch_size"] == module.hparams["batch_size"] == 20
    assert len(found["lr_find"].results["lr"]) == 30
    assert found["lr_find"].suggestion() == module.hparams["lr"] != 0.02
    module.hparams["lr"] = 0.3
    trainer.fit(module, train_dataloader=module.train_dataloader())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.3
    assert trainer.global_step == 3


def test_tune_without_anything_to_find_says_so() -> None:
    with pytest.warns(LeydenWarning, match="has nothing to do"):
        assert kit.trainer().tune(Net()) == {}


def test_auto_lr_find_may_name_the_attribute() -> None:
    module = Net()
    module.rate = 1.0
    kit.trainer(auto_lr_find="rate").tune(module)
    assert module.rate != 1.0
    with pytest.raises(UnknownName, match="attr_name='pace'"):
        kit.trainer(auto_lr_find="pace").fit(module)


def test_loaders_that_fit_is_given_cannot_be_scaled() -> None:
    module = Net()
    with pytest.raises(Unsupported, match="cannot change loaders"):
        kit.trainer(auto_scale_batch_size=True).fit(module, module.train_dataloader())


def test_the_trainer_finds_a_rate_and_leaves_it_to_the_user() -> None:
    module, trainer = Net(), kit.trainer()
    loader = DataLoader(TensorDataset(torch.ones(10, 2)), batch_size=5)
    found = trainer.lr_find(module, loader, min_lr=1e-4, num_training=12, num_accumulation_steps=2)
    assert (len(found.results["lr"]), found._total_batch_idx, found.lr_min) == (12, 23, 1e-4)
    assert module.hparams["lr"] == 0.02
    assert trainer.accumulate_grad_batches == 1
    assert len(trainer.tuner.lr_find(module, num_training=7).results["lr"]) == 7
    trainer.tuner.lr_find(module, num_training=20, update_attr=True)
    assert module.hparams["lr"] != 0.02


def test_the_trainer_scales_the_batch_size() -> None:
    module, trainer = Net(), kit.trainer()
    assert trainer.scale_batch_size(module, "power", 1, 4, 2) == module.hparams["batch_size"] == 8
    assert trainer.tuner.scale_batch_size(module, mode="binsearch", max_val=16, margin=0.5) == 8
