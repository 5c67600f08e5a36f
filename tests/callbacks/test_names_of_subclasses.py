"""A subclass of a callback or logger has names of its own: what its author calls an attribute or a method hides none of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kit
import pytest

from leyden import Trainer
from leyden.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    RichProgressBar,
    Timer,
    TQDMProgressBar,
)
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.testing import BoringModel


def refuse(self: Any, *args: Any) -> None:
    raise AssertionError("called, though it is the author's own")


CHECKPOINT = (
    "begin",
    "save",
    "write",
    "read",
    "remove_outdated",
    "metric",
    "time",
    "now",
    "score",
    "upkeep",
    "last_path",
    "clock",
)
STOPPING = ("begin", "judged", "metric", "limits", "warned", "has_run", "resumed", "check_if_new")
TIMER = ("begin", "start", "end", "clock", "finish")
MONITOR = ("log", "every", "watched")
LOGGER = ("writer", "every", "write", "there", "note_files")


@pytest.mark.parametrize(
    ("base", "options", "names"),
    [
        (ModelCheckpoint, {"monitor": "x"}, CHECKPOINT),
        (EarlyStopping, {"monitor": "x"}, STOPPING),
        (Timer, {"duration": {"hours": 1}}, TIMER),
        (LearningRateMonitor, {}, MONITOR),
        (CSVLogger, {"save_dir": "."}, LOGGER),
        (TensorBoardLogger, {"save_dir": "."}, LOGGER),
    ],
)
def test_names_with_an_underscore(
    base: Any, options: dict[str, Any], names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    methods = type("Methods", (base,), {f"_{name}": refuse for name in names})(**options)
    values = base(**options)
    for name in names:
        setattr(values, f"_{name}", "the author's")
    for part in (methods, values):
        is_logger = base in (CSVLogger, TensorBoardLogger)
        own = {"logger": part} if is_logger else {"callbacks": part, "logger": CSVLogger(".")}
        limits = {"max_epochs": 2, "limit_train_batches": 2, "limit_val_batches": 1, "log_every_n_steps": 1}
        Trainer(**{**kit.QUIET, **limits, **own, "enable_checkpointing": base is ModelCheckpoint}).fit(BoringModel())
    assert all(getattr(values, f"_{name}") == "the author's" for name in names)


def test_older_names_are_free_for_something_of_one_s_own(tmp_path: Path) -> None:
    checkpoint, stopping, logger = ModelCheckpoint(tmp_path, monitor="x"), EarlyStopping("x"), CSVLogger(tmp_path)
    assert (checkpoint.best, checkpoint.kth_best_model, stopping.wait, logger.rank) == (None, "", 0, 0)
    checkpoint.best = checkpoint.kth_best_model = stopping.wait = logger.rank = 7
    assert (checkpoint.best, checkpoint.kth_best_model, stopping.wait, logger.rank) == (7, 7, 7, 7)
    assert (checkpoint.best_model_score, checkpoint.kth_best_model_path, stopping.wait_count) == (None, "", 0)


OF_LIGHTNINGS_BARS = {
    *("_trainer", "_current_eval_dataloader_idx", "_refresh_rate", "_leave", "_process_position", "_console", "_console_kwargs"),
    "_enabled",
}


@pytest.mark.parametrize("bar", [ProgressBar, TQDMProgressBar, RichProgressBar])
def test_private_names_of_bars_are_free(bar: Any) -> None:
    made = bar()
    classes = [cls for cls in bar.__mro__ if cls.__module__.startswith("leyden.callbacks.progress")]
    names = {name for owner in (*classes, made) for name in vars(owner)}
    own = {name for name in names if name.startswith("_") and not name.startswith(("__", "_abc_", f"_{bar.__name__}__"))}
    assert own <= OF_LIGHTNINGS_BARS
