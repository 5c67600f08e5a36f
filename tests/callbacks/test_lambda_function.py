"""LambdaCallback: functions as hooks. And the face of the package: what it offers, and what it says of the rest."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
from kit import Tiny, fit, ones

import leyden
import leyden.callbacks
from leyden.callback import Callback
from leyden.callbacks import LambdaCallback
from leyden.errors import InvalidType, UnknownName
from leyden.hooks import HOOK_NAMES, overrides


def test_functions_get_the_hooks_arguments() -> None:
    seen: list[Any] = []
    callback = LambdaCallback(
        setup=lambda trainer, module, stage: seen.append(("setup", stage)),
        on_train_batch_end=lambda trainer, module, outputs, batch, batch_idx: seen.append((batch_idx, set(outputs))),
        on_train_epoch_end=lambda trainer, module: seen.append(("epoch", trainer.current_epoch, type(module))),
        on_fit_end=None,
    )
    fit(Tiny(), ones(2), callbacks=[callback])
    assert seen == [("setup", "fit"), (0, {"loss"}), (1, {"loss"}), ("epoch", 0, Tiny)]


@pytest.mark.parametrize("name", [name for name in HOOK_NAMES if name not in ("state_dict", "load_state_dict")])
def test_every_hook_can_be_given_and_costs_nothing_otherwise(name: str) -> None:
    hook = getattr(Callback, name)
    assert overrides(LambdaCallback(**{name: lambda *_: None}), hook)
    assert not overrides(LambdaCallback(), hook)
    assert not overrides(LambdaCallback(**{name: None}), hook)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown argument 'on_train_epoch_ends'\. Did you mean 'on_train_epoch_end'"):
        LambdaCallback(on_train_epoch_ends=print)
    with pytest.raises(TypeError, match="LambdaCallback got an unknown argument 'state_dict'"):
        LambdaCallback(state_dict=dict)


def test_every_hook_is_an_argument_in_lightning_s_order() -> None:
    arguments = list(inspect.signature(LambdaCallback).parameters)
    assert {*arguments, "state_dict", "load_state_dict"} == set(HOOK_NAMES)
    assert arguments[:4] == ["setup", "teardown", "on_fit_start", "on_fit_end"]
    assert arguments[-2:] == ["on_predict_epoch_start", "on_predict_epoch_end"]
    assert arguments.index("on_before_backward") == 27


def test_setup_and_teardown_tell_the_stage_in_any_form() -> None:
    told: list[Any] = []
    forms: list[Any] = [
        lambda *args: told.append(args[2]),
        lambda trainer, module, stage: told.append(stage),
        lambda trainer, module, *, stage: told.append(stage),
        lambda trainer, module: told.append("none"),
        lambda trainer, module, **given: told.append(given["stage"]),
    ]
    for form in forms:
        fit(Tiny(), ones(1), callbacks=[LambdaCallback(setup=form, teardown=form)])
    assert told == ["fit"] * 6 + ["none"] * 2 + ["fit"] * 2


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(InvalidType, match="on_fit_end=3"):
        LambdaCallback(on_fit_end=3)  # type: ignore[arg-type]  # the mistake under test


# -- the package's face
def test_the_face_is_complete_and_sorted() -> None:
    names = leyden.callbacks.__all__
    assert names == sorted(names)
    assert set(names) <= set(dir(leyden.callbacks))
    for name in names:
        assert inspect.isclass(getattr(leyden.callbacks, name)), name


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("early_stopping", "EarlyStopping"),
        ("model_checkpoint", "ModelCheckpoint"),
        ("gradient_accumulation_scheduler", "GradientAccumulationScheduler"),
        ("lr_monitor", "LearningRateMonitor"),
        ("lambda_function", "LambdaCallback"),
        ("timer", "Timer"),
        ("on_exception_checkpoint", "OnExceptionCheckpoint"),
        ("checkpoint", "Checkpoint"),
        ("finetuning", "BaseFinetuning"),
        ("finetuning", "BackboneFinetuning"),
        ("prediction_writer", "BasePredictionWriter"),
        ("device_stats_monitor", "DeviceStatsMonitor"),
        ("spike", "SpikeDetection"),
        ("throughput_monitor", "ThroughputMonitor"),
    ],
)
def test_the_files_have_lightnings_names(module: str, name: str) -> None:
    home = importlib.import_module(f"leyden.callbacks.{module}")
    assert getattr(home, name) is getattr(leyden.callbacks, name)


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'EarlyStopping'"):
        leyden.callbacks.EarlyStoping  # noqa: B018  # looking it up is the test
