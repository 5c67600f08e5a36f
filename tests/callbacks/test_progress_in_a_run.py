"""Progress bars and the summary through the trainer: what a log file shows, and that training is the same with and without."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from leyden import LightningModule, Trainer
from leyden.callbacks import ModelSummary, RichModelSummary, RichProgressBar, TQDMProgressBar
from leyden.errors import LeydenWarning

BARS = [RichProgressBar, TQDMProgressBar]


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.example_input_array = torch.ones(2, 4)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layers(batch)  # type: ignore[no-any-return]  # a Tensor

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self(batch[0]).pow(2).mean()
        self.log("acc", loss, prog_bar=True, on_step=True, on_epoch=True)
        return loss  # type: ignore[no-any-return]  # a Tensor

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(batch[0]).mean(), prog_bar=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", torch.tensor(0.5))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def loader() -> Any:
    return DataLoader(TensorDataset(torch.linspace(-1, 1, 64).reshape(16, 4)), batch_size=4, shuffle=False)


def trained(**options: Any) -> tuple[Model, Trainer]:
    torch.manual_seed(0)
    model = Model()
    trainer = Trainer(max_epochs=2, logger=False, enable_checkpointing=False, **options)
    trainer.fit(model, loader(), loader())
    return model, trainer


@pytest.mark.parametrize("bar", BARS)
def test_each_epoch_leaves_one_line_with_its_loss(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trained(callbacks=[bar()], enable_model_summary=False)
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Training on ")
    assert last.startswith("Training ended ")
    assert len(lines) == 2
    for epoch, text in enumerate(lines, start=1):
        number = r"-?[\d.e-]+"
        expected = (
            rf"Epoch {epoch}/2: 4/4 in 0:00:\d\d, [\d.]+ it/s, loss: {number}, (val_loss|acc_epoch): {number}, \w+: {number}"
        )
        assert re.fullmatch(expected, text), text


@pytest.mark.parametrize("bar", BARS)
@pytest.mark.parametrize("summary", [ModelSummary, RichModelSummary])
def test_watching_changes_nothing(bar: Any, summary: Any) -> None:
    watched, _ = trained(callbacks=[bar(), summary(max_depth=-1)])
    alone, _ = trained(enable_progress_bar=False, enable_model_summary=False)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


@pytest.mark.parametrize("bar", BARS)
def test_results_are_printed_as_a_table(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, trainer = trained(callbacks=[bar()], enable_model_summary=False)
    capsys.readouterr()
    trainer.test(model, loader())
    assert " test_loss   |          0.5\n" in capsys.readouterr().out
    trainer.test(model, loader(), verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bar", BARS)
def test_an_exception_closes_the_bar(bar: Any) -> None:
    class Broken(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise KeyError("mine")

    callback = bar()
    before = sys.stdout
    with pytest.raises(KeyError, match="mine"):
        Trainer(max_epochs=1, logger=False, enable_checkpointing=False, callbacks=[callback]).fit(Broken(), loader(), loader())
    assert sys.stdout is before
    assert not callback.leyden_active


def test_the_default_bar_and_summary() -> None:
    trainer = Trainer(logger=False, max_epochs=1)
    assert isinstance(trainer.progress_bar_callback, RichProgressBar)
    assert any(isinstance(callback, ModelSummary) for callback in trainer.callbacks)


def test_the_summary_is_printed_once_fit_begins(capsys: pytest.CaptureFixture[str]) -> None:
    trained(enable_progress_bar=False)
    out = capsys.readouterr().out
    assert "0 | layers | Sequential | 65     | train" in out
    assert "[2, 4]" in out


def test_an_example_that_does_not_fit_does_not_stop_training() -> None:
    model = Model()
    model.example_input_array = torch.ones(2, 5)
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False)
    with pytest.warns(LeydenWarning, match=r"example_input_array does not fit Model\.forward"):
        trainer.fit(model, loader(), loader())
    assert trainer.current_epoch == 1


def test_trainer_print_goes_through_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    class Printing(Model):
        def on_train_epoch_start(self) -> None:
            self.print("hello from", self.current_epoch)

    Trainer(max_epochs=1, logger=False, enable_checkpointing=False).fit(Printing(), loader(), loader())
    assert "hello from 0\n" in capsys.readouterr().out
