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
    with pytest.raises(UnknownName, match=r"'on_train_epoch_ends', which is no hook\. Did you mean 'on_train_epoch_end'"):
        LambdaCallback(on_train_epoch_ends=print)
    with pytest.raises(TypeError, match="unexpected keyword argument 'state_dict'"):
        LambdaCallback(state_dict=dict)


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
    ],
)
def test_the_files_have_lightnings_names(module: str, name: str) -> None:
    home = importlib.import_module(f"leyden.callbacks.{module}")
    assert getattr(home, name) is getattr(leyden.callbacks, name)


def test_a_wrong_name_is_told_the_nearest() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'EarlyStopping'"):
        leyden.callbacks.EarlyStoping  # noqa: B018  # looking it up is the test
