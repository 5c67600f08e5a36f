"""EarlyStopping: when it looks, when it stops, and what it says."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import kit
import pytest
import torch
from kit import Tiny, ones

from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.callbacks.early_stopping import EarlyStoppingReason
from leyden.errors import InvalidOption, InvalidType, LeydenWarning, MisconfigurationException, MissingMonitor

NAN = float("nan")


class Trains(Tiny):
    """Logs the epoch's number."""

    def on_train_epoch_end(self) -> None:
        self.log("epoch_number", float(self.current_epoch))


class Scripted(Trains):
    """Logs a validation metric that is written down beforehand."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = list(scores)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking and self.scores:
            self.log("val_loss", self.scores.pop(0))


def fit(stopping: EarlyStopping, *scores: float, epochs: int = 8, **options: Any) -> Any:
    run = partial(kit.fit, callbacks=[stopping], max_epochs=epochs, **options)
    return run(Scripted(*scores), ones(2), ones(1)) if scores else run(Trains(), ones(2))


def test_the_name_alone_is_enough() -> None:
    stopping = EarlyStopping("val_loss")
    trainer = fit(stopping, 3.0, 1.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0)
    assert trainer.current_epoch == 5
    assert stopping.stopped_epoch == 4
    assert stopping.wait_count == stopping.patience == 3
    assert stopping.best_score == torch.tensor(1.0)
    assert stopping.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED
    assert str(stopping.stopping_reason_message) == "val_loss has not improved for 3 epochs, best 1 at epoch 2."
    assert stopping.best_epoch == 1
    assert trainer.leyden_stop_reason == stopping.stopping_reason_message


def test_improvement_begins_the_wait_anew() -> None:
    stopping = EarlyStopping("val_loss", patience=2)
    assert fit(stopping, 5.0, 3.0, 4.0, 2.0, 6.0, 1.0, 7.0, 8.0).current_epoch == 8
    assert stopping.best_score == torch.tensor(1.0)


def test_no_stop() -> None:
    stopping = EarlyStopping("val_loss")
    fit(stopping, 3.0, 2.0, 1.0, epochs=3)
    assert stopping.stopped_epoch == 0
    assert stopping.stopping_reason is EarlyStoppingReason.NOT_STOPPED
    assert stopping.stopping_reason_message is None


def test_mode_max() -> None:
    stopping = EarlyStopping("val_loss", mode="max", patience=1)
    assert fit(stopping, 1.0, 2.0, 2.0).current_epoch == 3
    assert stopping.monitor_op is torch.gt


@pytest.mark.parametrize(("mode", "scores"), [("min", (5.0, 4.5, 4.2)), ("max", (1.0, 1.5, 1.9))])
def test_min_delta_is_what_an_improvement_takes(mode: str, scores: tuple[float, ...]) -> None:
    stopping = EarlyStopping("val_loss", min_delta=1.0, patience=2, mode=mode)
    assert fit(stopping, *scores).current_epoch == 3
    assert float(stopping.best_score) == scores[0]


@pytest.mark.parametrize(("mode", "scores"), [("min", (5.0, 5.5, 6.0, 7.5)), ("max", (2.0, 1.5, 1.0, -1.0))])
def test_a_min_delta_below_0_lets_a_little_less_count_too(mode: str, scores: tuple[float, ...]) -> None:
    stopping = EarlyStopping("val_loss", min_delta=-1.0, patience=1, mode=mode, verbose=True)
    assert fit(stopping, *scores).current_epoch == 4
    assert float(stopping.best_score) == scores[2]  # as in Lightning, where it is the newest that counted


@pytest.mark.parametrize(
    ("options", "scores", "reason"),
    [
        ({"stopping_threshold": 2.5}, (5.0, 2.0), EarlyStoppingReason.STOPPING_THRESHOLD),
        ({"stopping_threshold": 4.0, "mode": "max"}, (1.0, 5.0), EarlyStoppingReason.STOPPING_THRESHOLD),
        ({"divergence_threshold": 6.0}, (5.0, 7.0), EarlyStoppingReason.DIVERGENCE_THRESHOLD),
        ({"divergence_threshold": 0.0, "mode": "max"}, (1.0, -1.0), EarlyStoppingReason.DIVERGENCE_THRESHOLD),
        ({}, (5.0, NAN), EarlyStoppingReason.NON_FINITE_METRIC),
        ({}, (5.0, math.inf), EarlyStoppingReason.NON_FINITE_METRIC),
        ({"check_finite": False, "patience": 1}, (5.0, NAN), EarlyStoppingReason.PATIENCE_EXHAUSTED),
    ],
)
def test_other_reasons(options: dict[str, Any], scores: tuple[float, ...], reason: EarlyStoppingReason) -> None:
    stopping = EarlyStopping("val_loss", **options)
    assert fit(stopping, *scores).current_epoch == 2
    assert stopping.stopping_reason is reason
    assert "val_loss" in str(stopping.stopping_reason_message)


def test_min_epochs_are_trained_all_the_same() -> None:
    assert fit(EarlyStopping("val_loss", patience=1), 1.0, 1.0, 1.0, 1.0, 1.0, min_epochs=4).current_epoch == 4


# -- when it looks
@pytest.mark.parametrize("at_epoch_end", [None, True, False])
def test_epochs_without_validation_cost_no_patience(at_epoch_end: bool | None) -> None:
    stopping = EarlyStopping("val_loss", patience=2, check_on_train_epoch_end=at_epoch_end)
    trainer = fit(stopping, 3.0, 4.0, 4.0, epochs=20, check_val_every_n_epoch=3)
    assert trainer.current_epoch == 9
    assert stopping.wait_count == 2


def test_every_validation_within_an_epoch_is_judged() -> None:
    trainer = fit(EarlyStopping("val_loss", patience=3), 1.0, 2.0, 2.0, 2.0, val_check_interval=1)
    assert trainer.global_step == 4


def test_a_metric_of_training() -> None:
    trainer = fit(EarlyStopping("epoch_number", patience=2))
    assert trainer.current_epoch == 3


def test_a_metric_of_training_while_validation_decides_when() -> None:
    """It is there from the end of the first epoch on, and the validations before that do not miss it."""
    trainer = fit(EarlyStopping("epoch_number", patience=1, mode="max"), 1.0, 1.0, 1.0, 1.0, epochs=2, val_check_interval=1)
    assert trainer.current_epoch == 2


def test_the_sanity_check_is_not_judged() -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    fit(stopping, 1.0, 0.0, epochs=2, num_sanity_val_steps=1)
    assert stopping.wait_count == 0


def test_a_smoke_run_needs_no_metric() -> None:
    stopping = EarlyStopping("nothing")
    assert fit(stopping, 1.0, fast_dev_run=True).global_step == 1


# -- a metric that is not there
def test_missing_metric_is_an_error_with_its_nearest() -> None:
    with pytest.raises(MissingMonitor, match="Did you mean 'val_loss'") as caught:
        fit(EarlyStopping("val_los"), 1.0)
    assert "'epoch_number'" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, MisconfigurationException)


@pytest.mark.parametrize("options", [{"val_check_interval": 1}, {"check_on_train_epoch_end": False}])
def test_missing_metric_is_found_in_the_first_epoch(options: dict[str, Any]) -> None:
    when = options.pop("check_on_train_epoch_end", None)
    stopping = EarlyStopping("nothing", check_on_train_epoch_end=when)
    with pytest.raises(MissingMonitor, match="'nothing', which was not logged"):
        fit(stopping, 1.0, 1.0, **options)


def test_missing_metric_is_a_warning_where_not_strict() -> None:
    with pytest.warns(LeydenWarning, match="EarlyStopping stops nothing") as seen:
        trainer = fit(EarlyStopping("nothing", strict=False), 1.0, 1.0, epochs=2)
    assert trainer.current_epoch == 2
    assert len(seen) == 1


# -- kept
def test_state_goes_into_a_checkpoint_and_comes_back() -> None:
    first = EarlyStopping("val_loss", patience=5)
    fit(first, 3.0, 1.0, 2.0, epochs=3)
    state = first.state_dict()
    assert {"wait_count", "stopped_epoch", "best_score", "patience"} <= set(state)
    second = EarlyStopping("val_loss")
    second.load_state_dict(state)
    assert (second.wait_count, second.patience, float(second.best_score)) == (1, 3, 1.0)  # patience is the command's
    assert second.state_key == first.state_key == "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}"


def test_a_state_of_lightnings_is_taken() -> None:
    stopping = EarlyStopping("val_loss")
    stopping.load_state_dict({"wait_count": 2, "stopped_epoch": 0, "best_score": torch.tensor(0.5), "patience": 4})
    assert (stopping.wait_count, stopping.patience, float(stopping.best_score)) == (2, 3, 0.5)


def test_a_resumed_run_stops_where_the_whole_one_does() -> None:
    scores = (3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    whole = fit(EarlyStopping("val_loss"), *scores)
    first = fit(EarlyStopping("val_loss"), *scores, epochs=3, enable_checkpointing=None)
    first.save_checkpoint("three.ckpt")
    second = fit(EarlyStopping("val_loss"), *scores[3:], enable_checkpointing=None, ckpt_path="three.ckpt")
    assert second.current_epoch == whole.current_epoch == 5


def test_a_second_fit_is_judged_by_itself() -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    trainer = fit(stopping, 1.0, 2.0)
    trainer.fit(Scripted(5.0, 4.0, 4.0), ones(2), ones(1))
    assert trainer.current_epoch == 3
    assert float(stopping.best_score) == 4.0


def test_verbose_says_what_improved_and_why_it_stopped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="leyden"):
        fit(EarlyStopping("val_loss", patience=1, verbose=True), 3.0, 1.0, 1.0)
    assert "val_loss has its first value: 3.000." in caplog.text
    assert "val_loss improved by 2.000 to 1.000." in caplog.text
    assert "has not improved for 1 epoch, best 1 at epoch 2" in caplog.text


def test_a_subclass_may_decide_by_itself() -> None:
    class Never(EarlyStopping):
        def _evaluate_stopping_criteria(self, current: Any) -> tuple[bool, str | None]:
            return False, None

    assert fit(Never("val_loss", patience=1), 1.0, 1.0, 1.0, epochs=3).current_epoch == 3


@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        ((3,), {}, InvalidType, "monitor=3"),
        (("val_loss",), {"mode": "least"}, InvalidOption, "mode='least'"),
        (("val_loss",), {"patience": -1}, InvalidOption, "patience=-1"),
        (("val_loss",), {"patience": "3"}, InvalidType, "patience='3'"),
        ((), {}, TypeError, "monitor"),
    ],
)
def test_bad_arguments(arguments: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        EarlyStopping(*arguments, **options)


def test_positions_of_the_arguments() -> None:
    stopping = EarlyStopping("acc", 0.1, 7, True, "max", False, False, 0.9, 0.2, True, True)
    assert (stopping.monitor, stopping.min_delta, stopping.patience, stopping.verbose) == ("acc", 0.1, 7, True)
    assert (stopping.mode, stopping.strict, stopping.check_finite) == ("max", False, False)
    assert (stopping.stopping_threshold, stopping.divergence_threshold, stopping.log_rank_zero_only) == (0.9, 0.2, True)


@pytest.mark.parametrize("name", ["min_delta", "stopping_threshold", "divergence_threshold"])
@pytest.mark.parametrize("given", ["0.1", [], {}, True])
def test_a_threshold_that_is_no_number_is_refused_when_it_is_given(name: str, given: Any) -> None:
    with pytest.raises(InvalidType, match=f"{name}="):
        EarlyStopping("val_loss", **{name: given})


def test_a_mode_that_cannot_be_hashed_is_refused() -> None:
    with pytest.raises(InvalidOption, match="mode="):
        EarlyStopping("val_loss", mode=[])  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_that_equals_the_threshold_has_not_passed_it(mode: str) -> None:
    # 0.9 is logged as a double, and no float32 equals it
    stopping = EarlyStopping("val_loss", mode=mode, stopping_threshold=0.9, divergence_threshold=0.9, patience=10)
    trainer = fit(stopping, 0.9, 0.9, epochs=2)
    assert trainer.current_epoch == 2
    assert stopping.stopping_reason is EarlyStoppingReason.NOT_STOPPED


@pytest.mark.filterwarnings("ignore:ModelCheckpoint was to save by 'val_loss', which has not been logged yet")
@pytest.mark.parametrize(
    "callback",
    [
        lambda: EarlyStopping("val_loss"),
        lambda: EarlyStopping("val_loss", check_on_train_epoch_end=True),
        lambda: ModelCheckpoint(monitor="val_loss", every_n_train_steps=1),
        lambda: ModelCheckpoint(monitor="val_loss"),
        lambda: ModelCheckpoint(filename="{val_loss:.1f}"),
    ],
)
def test_a_validation_whose_loaders_are_made_when_it_is_due_is_waited_for(callback: Any) -> None:
    options: dict[str, Any] = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 2, "reload_dataloaders_every_n_epochs": 1}
    options["enable_checkpointing"] = None
    run = kit.fit(Scripted(2.0, 1.0), ones(2), ones(1), callbacks=[callback()], max_epochs=4, **options)
    assert (run.current_epoch, float(run.callback_metrics["val_loss"])) == (4, 1.0)


def test_loaders_that_turn_out_to_be_none_bring_no_validation() -> None:
    class Nothing(Scripted):
        def val_dataloader(self) -> Any:
            return []

    options: dict[str, Any] = {"num_sanity_val_steps": 0, "reload_dataloaders_every_n_epochs": 1, "max_epochs": 2}
    with pytest.raises(MissingMonitor, match="Validation never ran"):
        kit.fit(Nothing(1.0), ones(2), callbacks=[EarlyStopping("val_loss")], **options)
