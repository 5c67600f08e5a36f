"""Warnings that save an hour: each once, before it is too late, and none where what it says is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kit
import pytest
from torch import nn

import leyden
from leyden.errors import PossibleUserWarning
from leyden.loggers import CSVLogger
from leyden.testing import BoringModel, random_batches

pytestmark = pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")


def warned(deed: Callable[[], Any]) -> list[str]:
    """What ``deed`` warns of."""
    with pytest.warns() as caught:
        deed()
    assert all(issubclass(each.category, UserWarning) for each in caught)
    return [str(each.message) for each in caught]


class Stopping(BoringModel):
    """A run that nothing limits, ended by hand."""

    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = True


def test_modules_in_eval_mode_are_counted() -> None:
    module = BoringModel()
    module.frozen = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3)).eval()
    with pytest.warns(PossibleUserWarning, match=r"3 module\(s\) of BoringModel are in eval mode.*'frozen'"):
        kit.trainer(max_epochs=2).fit(module, random_batches(2))


@pytest.mark.parametrize("given", [{"max_epochs": 1}, {"max_steps": 1}, {"max_time": "00:01:00:00"}, {"fast_dev_run": True}, {}])
def test_an_unlimited_run_is_said(given: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    options = {**kit.QUIET, **given}
    trainer = leyden.Trainer(**options)
    assert not recwarn.list  # constructing one says nothing: a program may only test with it
    if given:
        trainer.fit(Stopping(), random_batches(2))
        assert not [each for each in recwarn.list if "1000 epochs" in str(each.message)]
    else:
        with pytest.warns(PossibleUserWarning, match="no max_epochs, max_steps or max_time: 1000 epochs are meant"):
            trainer.fit(Stopping(), random_batches(2))


def test_a_limit_that_was_set_afterwards_is_one(recwarn: pytest.WarningsRecorder) -> None:
    trainer = leyden.Trainer(**kit.QUIET)
    trainer.max_epochs = 1
    trainer.fit(BoringModel(), random_batches(2))
    assert not [each for each in recwarn.list if "epochs are meant" in str(each.message)]


def test_fewer_batches_than_steps_between_rows() -> None:
    with pytest.warns(PossibleUserWarning, match=r"An epoch has 3 training batches, and Trainer\(log_every_n_steps=50\)"):
        kit.trainer(logger=CSVLogger("logs")).fit(BoringModel(), random_batches(3))


@pytest.mark.parametrize("given", [{"logger": False}, {"log_every_n_steps": 3}, {"fast_dev_run": True}, {"log_every_n_steps": 0}])
def test_it_is_not_said_in_vain(given: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    kit.trainer(**{"logger": CSVLogger("logs"), **given}).fit(BoringModel(), random_batches(3))
    assert not [each for each in recwarn.list if "log_every_n_steps" in str(each.message)]


@pytest.mark.parametrize("how", ["step", "validation", "log_dict", "callback"])
def test_logger_true_without_a_logger_is_said_once(how: str) -> None:
    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if how == "step":
                self.log("a", 1.0, logger=True)
                self.log("b", 1.0, logger=True)
            if how == "log_dict":
                self.log_dict({"a": 1.0, "b": 2.0}, logger=True)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if how == "validation":
                self.log("a", 1.0, logger=True)

    class Watching(leyden.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            if how == "callback":
                self.log("a", 1.0, logger=True)

    messages = warned(lambda: kit.trainer(Watching(), max_epochs=2).fit(Module(), random_batches(2), random_batches(2)))
    assert len([each for each in messages if "logger=True" in each]) == 1


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"logger": None}])
def test_with_a_logger_nothing_is_said(options: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("a", 1.0, logger=True)
            return {"loss": self.step(batch), "log": {"b": 1.0}}

    kit.trainer(**{"log_every_n_steps": 1, **options}).fit(Module(), random_batches(2))
    assert not [each for each in recwarn.list if "logger=True" in str(each.message)]


def test_2020_s_dicts_ask_for_no_logger(recwarn: pytest.WarningsRecorder) -> None:
    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.step(batch), "log": {"b": 1.0}}

    kit.trainer().fit(Module(), random_batches(2))
    assert not [each for each in recwarn.list if "logger=True" in str(each.message)]
