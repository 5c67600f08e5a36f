"""Which classes and functions a checkpoint may name."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn

from leyden.checkpoint.format import Unwritable, decode, encode, unwritable
from leyden.checkpoint.named import named
from leyden.checkpoint.single_values import MARK
from leyden.testing import BoringModel

OF_TORCH = [
    nn.ReLU, nn.BatchNorm1d, nn.MSELoss, torch.optim.Adam, torch.optim.lr_scheduler.StepLR, torch.distributions.Normal,
    torchmetrics.MeanMetric, F.relu, F.gelu, F.cross_entropy, F.softmax, torch.tanh, torch.relu, nn.init.xavier_uniform_,
]  # fmt: skip
OTHERS = [
    len, print, dict, Path, functools.partial, torch.load, torch.save, torch.from_file, torch.compile, torch.Tensor,
    torch.Generator, BoringModel, kit.trainer,
]  # fmt: skip


@pytest.mark.parametrize("value", OF_TORCH, ids=lambda value: str(value.__name__))
def test_a_class_or_function_of_torch_comes_back(value: Any) -> None:
    plain = encode({"a": [value]})
    assert unwritable(plain) == []
    assert decode(plain)["a"][0] is value


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: str(value.__name__))
def test_another_is_recorded_as_what_it_was(value: Any) -> None:
    assert [path for path, _ in unwritable(encode({"a": value}))] == ["a"]


@pytest.mark.parametrize(
    "reference",
    [
        "os:system", "subprocess:Popen", "builtins:exec", "torch:load", "torch.serialization:load", "torch.hub:load",
        "torch:from_file",
        "torch.nn.functional:warnings", "torch.nn.functional:importlib", "torch.optim.optimizer:defaultdict", "torch.nn:ReLU",
        "torch.nn.modules.module:Module.forward", "torch.nn.nowhere:ReLU", "torch.nn.functional:__loader__", "a", ":",
    ],
)  # fmt: skip
def test_a_file_cannot_name_anything_else(reference: str) -> None:
    assert named(reference) is None
    assert decode({MARK: "named", "of": reference, "type": "class X"}) == Unwritable("", "class X")


def test_a_package_that_is_not_imported_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = encode({"a": torchmetrics.MeanMetric})
    monkeypatch.delitem(sys.modules, torchmetrics.MeanMetric.__module__)
    assert decode(plain)["a"] == Unwritable("", "class torchmetrics.aggregation.MeanMetric")
    assert torchmetrics.MeanMetric.__module__ not in sys.modules


class Chosen(BoringModel):
    def __init__(self, activation: type[nn.Module], optimizer: Any = torch.optim.SGD, loss: Any = F.mse_loss) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.activation = activation()

    def configure_optimizers(self) -> Any:
        return self.hparams.optimizer(self.parameters(), lr=0.1)


def test_a_module_is_made_with_the_classes_that_it_was_made_with(tmp_path: Path) -> None:
    trainer = kit.trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(Chosen(nn.GELU, torch.optim.Adam))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    made = Chosen.load_from_checkpoint(tmp_path / "a.ckpt")
    assert dict(made.hparams) == {"activation": nn.GELU, "optimizer": torch.optim.Adam, "loss": F.mse_loss}
    assert type(made.activation) is nn.GELU
