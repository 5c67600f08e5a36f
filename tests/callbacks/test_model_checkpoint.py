"""ModelCheckpoint: when it writes, what it keeps, what the files are called, and what a crash leaves behind."""

from __future__ import annotations

import copy
import math
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import Tiny, ones

import leyden
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.callbacks.default_checkpoint import default_checkpoint
from leyden.callbacks.monitor import validation_loss
from leyden.errors import (
    CheckpointWriteFailed,
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    LeydenWarning,
    MisconfigurationException,
    MissingMonitor,
    PossibleUserWarning,
)
from leyden.plugins.io import AsyncCheckpointIO, CheckpointIO, ShardedCheckpointIO, TorchCheckpointIO

NAN = float("nan")


class Scripted(Tiny):
    """Trains four batches an epoch. Its subclass validates, and logs scores that are written down beforehand."""

    def __init__(self, *scores: float, fails_at: int | None = None) -> None:
        super().__init__()
        self.scores, self.fails_at = scores, fails_at
        self.validations = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == self.fails_at:
            raise ValueError("by order")
        self.log("train_loss", float(100 - self.global_step))
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        self.log("epoch_number", float(self.current_epoch))

    def train_dataloader(self) -> Any:
        return ones(4)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["validations"] = self.validations

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.validations = checkpoint["validations"]


class Validated(Scripted):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if not self.trainer.sanity_checking and batch_idx == 0 and self.scores:
            self.log("val_loss", self.scores[self.validations % len(self.scores)])
            self.validations += 1

    def val_dataloader(self) -> Any:
        return ones(1)


def fit(module: leyden.LightningModule, callback: Any, epochs: int = 3, **options: Any) -> Any:
    callbacks = callback if isinstance(callback, list) else [callback]
    return kit.fit(module, callbacks=callbacks, max_epochs=epochs, enable_checkpointing=None, **options)


def names(folder: str | os.PathLike[str] = "checkpoints") -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, found in os.walk(folder) for name in found)


def step_of(path: str | os.PathLike[str]) -> int:
    step = torch.load(path, weights_only=True)["global_step"]
    assert isinstance(step, int)
    return step


# -- which files are kept
def test_without_a_monitor_the_newest_is_kept() -> None:
    callback = ModelCheckpoint()
    fit(Validated(1.0), callback)
    assert names() == ["epoch=2-step=12.ckpt"]
    assert callback.best_model_path == os.path.abspath("checkpoints/epoch=2-step=12.ckpt")
    assert callback.best_model_score is None
    assert callback.last_model_path == ""


def test_with_a_monitor_the_best_is_kept() -> None:
    callback = ModelCheckpoint(monitor="val_loss")
    fit(Validated(5.0, 3.0, 4.0), callback)
    assert names() == ["epoch=1-step=8.ckpt"]
    assert callback.best_model_score == torch.tensor(3.0)
    assert callback.current_score == torch.tensor(3.0)  # of what was kept last
    assert callback.best_k_models == {callback.best_model_path: torch.tensor(3.0)}


def test_the_k_best_are_kept_and_the_worst_of_them_is_known() -> None:
    callback = ModelCheckpoint(monitor="val_loss", save_top_k=2)
    fit(Validated(5.0, 3.0, 4.0, 2.0, 6.0), callback, epochs=5)
    assert names() == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]
    assert Path(callback.best_model_path).name == "epoch=3-step=16.ckpt"
    assert Path(callback.kth_best_model_path).name == "epoch=1-step=8.ckpt"
    assert callback.kth_value == torch.tensor(3.0)


def test_mode_max_keeps_the_highest() -> None:
    callback = ModelCheckpoint(monitor="val_loss", mode="max", save_top_k=1)
    fit(Validated(1.0, 3.0, 2.0), callback)
    assert callback.best_model_score == torch.tensor(3.0)
    assert names() == ["epoch=1-step=8.ckpt"]


def test_minus_one_keeps_all() -> None:
    callback = ModelCheckpoint(save_top_k=-1)
    fit(Validated(1.0), callback)
    assert names() == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt"]


def test_zero_keeps_none_but_the_last() -> None:
    fit(Validated(1.0), ModelCheckpoint(save_top_k=0, save_last=True))
    assert names() == ["last.ckpt"]
    assert step_of("checkpoints/last.ckpt") == 12


def test_nan_is_the_worst() -> None:
    callback = ModelCheckpoint(monitor="val_loss", mode="max")
    fit(Validated(NAN, 1.0, NAN), callback)
    assert callback.best_model_score == torch.tensor(1.0)
    assert names() == ["epoch=1-step=8.ckpt"]


def test_epoch_and_step_can_be_monitored() -> None:
    fit(Validated(1.0), ModelCheckpoint(monitor="step", mode="max", save_top_k=2))
    assert names() == ["epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt"]


def test_a_training_metric_can_be_monitored() -> None:
    fit(Scripted(), ModelCheckpoint(monitor="epoch_number", mode="max"))
    assert names() == ["epoch=2-step=12.ckpt"]


@given(
    st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(NAN)), min_size=1, max_size=6),
    st.integers(-1, 3),
    st.sampled_from(["min", "max"]),
)
@settings(max_examples=25)
def test_the_folder_holds_the_best_and_the_last_and_nothing_else(scores: list[float], k: int, mode: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        callback = ModelCheckpoint(
            dirpath=folder, monitor="val_loss", save_top_k=k, mode=mode, save_last=True, filename="{epoch}"
        )
        fit(Validated(*scores), callback, epochs=len(scores))
        worst = math.inf if mode == "min" else -math.inf
        costs = [worst if math.isnan(score) else score for score in scores]
        order = sorted(range(len(scores)), key=lambda epoch: (costs[epoch] if mode == "min" else -costs[epoch], epoch))
        kept = order if k == -1 else order[:k]
        assert names(folder) == sorted([*(f"epoch={epoch}.ckpt" for epoch in kept), "last.ckpt"])
        assert step_of(os.path.join(folder, "last.ckpt")) == 4 * len(scores)
        if kept:
            assert Path(callback.best_model_path).name == f"epoch={kept[0]}.ckpt"
            assert float(callback.best_model_score or 0) == costs[kept[0]]


# -- last
def test_last_is_a_real_file_and_always_the_newest() -> None:
    callback = ModelCheckpoint(monitor="val_loss", save_last=True)
    fit(Validated(1.0, 2.0, 3.0), callback)
    assert names() == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert not os.path.islink(callback.last_model_path)
    assert step_of(callback.last_model_path) == 12
    assert step_of(callback.best_model_path) == 4


@pytest.mark.parametrize("save_last", [True, "link"])
def test_what_is_both_best_and_last_is_written_once(save_last: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = [], ModelCheckpoint._save_checkpoint

    def counting(self: ModelCheckpoint, trainer: Any, filepath: str) -> None:
        written.append(Path(filepath).name)
        save(self, trainer, filepath)

    monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", counting)
    callback = ModelCheckpoint(monitor="val_loss", save_last=save_last)
    fit(Validated(2.0, 1.0), callback, epochs=2)
    assert written == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]
    assert os.path.samefile(callback.last_model_path, callback.best_model_path)
    os.remove(callback.best_model_path)
    assert step_of(callback.last_model_path) == 8


def test_a_subclass_that_writes_by_itself_writes_the_last_too() -> None:
    written = []

    class Own(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            written.append(Path(filepath).name)
            super()._save_checkpoint(trainer, filepath)

    callback = Own(monitor="val_loss", save_last=True)
    fit(Validated(2.0, 1.0), callback, epochs=2)
    assert written == ["epoch=0-step=4.ckpt", "last.ckpt", "epoch=1-step=8.ckpt", "last.ckpt"]
    assert step_of(callback.last_model_path) == 8


def test_a_fit_that_ends_before_its_first_validation_keeps_the_last_state() -> None:
    callback = ModelCheckpoint(monitor="val_loss")
    with pytest.warns(
        PossibleUserWarning, match="before a validation was due: check_val_every_n_epoch=5 is more than max_epochs=2"
    ):
        kit.fit(
            Validated(1.0, 2.0),
            callbacks=[callback],
            max_epochs=2,
            check_val_every_n_epoch=5,
            num_sanity_val_steps=0,
            limit_train_batches=4,
            enable_checkpointing=True,
        )
    assert step_of(callback.last_model_path) == 8
    assert callback.best_model_path == ""


def test_last_can_have_another_name() -> None:
    class Renamed(ModelCheckpoint):
        CHECKPOINT_NAME_LAST = "{epoch}-newest"

    callback = Renamed(monitor="val_loss", save_last=True)
    fit(Validated(1.0, 2.0), callback, epochs=2)
    assert names() == ["epoch=0-step=4.ckpt", "epoch=1-newest.ckpt"]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "epoch=1-step=8-newest.ckpt"),
        ({"max_steps": 7}, "epoch=1-step=7-newest.ckpt"),
        ({"max_steps": 3}, "epoch=0-step=3-newest.ckpt"),
    ],
)
def test_the_last_file_is_named_by_the_epoch_that_was_trained(options: dict[str, int], name: str) -> None:
    class Renamed(ModelCheckpoint):
        CHECKPOINT_NAME_LAST = "{epoch}-{step}-newest"

    fit(Scripted(), Renamed(every_n_train_steps=2, save_top_k=0, save_last=True), epochs=2, **options)
    assert names() == [name]


def test_a_file_of_an_exception_between_epochs_is_named_by_the_epoch_that_begins() -> None:
    class Failing(Scripted):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(Failing(), ModelCheckpoint(every_n_epochs=5, save_on_exception=True), epochs=2)
    assert names() == ["epoch=1-step=4.ckpt"]


# -- when
def test_every_n_train_steps() -> None:
    fit(Scripted(), ModelCheckpoint(every_n_train_steps=3, save_top_k=-1))
    assert names() == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt", "epoch=2-step=12.ckpt", "epoch=2-step=9.ckpt"]


def test_every_n_train_steps_counts_steps_and_not_batches() -> None:
    fit(Scripted(), ModelCheckpoint(every_n_train_steps=1, save_top_k=-1), epochs=1, accumulate_grad_batches=2)
    assert names() == ["epoch=0-step=1.ckpt", "epoch=0-step=2.ckpt"]


def test_every_n_epochs() -> None:
    fit(Validated(1.0), ModelCheckpoint(every_n_epochs=2, save_top_k=-1), epochs=5)
    assert names() == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]


def test_train_time_interval_by_a_clock() -> None:
    now = iter(range(1000))
    callback = ModelCheckpoint(train_time_interval=timedelta(seconds=3), save_top_k=-1, clock=lambda: float(next(now)))
    fit(Scripted(), callback, epochs=2)
    assert names() == ["epoch=0-step=3.ckpt", "epoch=1-step=6.ckpt"]


def test_after_each_validation_where_there_are_several_an_epoch() -> None:
    fit(Validated(1.0), ModelCheckpoint(save_top_k=-1), epochs=1, val_check_interval=2)
    assert names() == ["epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt"]


def test_an_interval_of_one_batch_is_no_whole_epoch() -> None:
    fit(Validated(1.0), ModelCheckpoint(save_top_k=-1), epochs=1, val_check_interval=1)
    assert names() == [f"epoch=0-step={step}.ckpt" for step in (1, 2, 3, 4)]


def test_only_in_epochs_with_validation() -> None:
    fit(Validated(5.0, 3.0), ModelCheckpoint(monitor="val_loss", save_top_k=-1), epochs=4, check_val_every_n_epoch=2)
    assert names() == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]


def test_a_score_is_not_given_to_other_weights() -> None:
    """At the end of an epoch without validation, validation's metric belongs to the weights of an earlier epoch."""
    callback = ModelCheckpoint(monitor="val_loss", save_top_k=-1, save_on_train_epoch_end=True, save_last=True)
    with pytest.warns(PossibleUserWarning, match="has not been logged yet"):
        fit(Validated(5.0, 3.0), callback, epochs=5, check_val_every_n_epoch=2)
    assert [Path(path).name for path in callback.best_k_models] == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt"]
    assert step_of(callback.last_model_path) == 20


def test_a_save_by_steps_waits_for_the_validation_that_follows() -> None:
    callback = ModelCheckpoint(monitor="val_loss", every_n_train_steps=4, save_top_k=-1)
    fit(Validated(5.0, 3.0, 4.0), callback)
    assert [float(score) for score in callback.best_k_models.values()] == [5.0, 3.0, 4.0]
    assert [Path(path).name for path in callback.best_k_models] == [
        "epoch=0-step=4.ckpt",
        "epoch=1-step=8.ckpt",
        "epoch=2-step=12.ckpt",
    ]


def test_no_rhythm_writes_the_last_at_the_end() -> None:
    fit(Scripted(), ModelCheckpoint(every_n_train_steps=0, every_n_epochs=0, save_last=True))
    assert names() == ["last.ckpt"]


def test_nothing_is_made_before_the_first_save_nor_in_a_smoke_run() -> None:
    callback = ModelCheckpoint(dirpath="kept")
    fit(Validated(1.0), callback, fast_dev_run=True)
    assert not os.path.exists("kept")
    fit(Validated(1.0), callback, epochs=0)
    assert not os.path.exists("kept")


def test_validate_and_test_write_nothing() -> None:
    module = Validated(1.0)
    trainer = kit.trainer(ModelCheckpoint(save_last=True), enable_checkpointing=None)
    trainer.validate(module, ones(1), verbose=False)
    assert names() == []


def test_without_an_optimizer_epochs_are_saved_all_the_same() -> None:
    class Plain(Scripted):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            return None

        def configure_optimizers(self) -> None:
            return None

    callback = ModelCheckpoint(save_top_k=-1, filename="{epoch}")
    with pytest.warns(LeydenWarning, match="without an optimizer"):
        fit(Plain(), callback, epochs=2)
    assert names() == ["epoch=0.ckpt", "epoch=1.ckpt"]


# -- trouble
def test_a_missing_monitor_is_named_with_its_nearest() -> None:
    with pytest.raises(MissingMonitor, match="Did you mean 'val_loss'") as caught:
        fit(Validated(1.0), ModelCheckpoint(monitor="val_los"))
    assert "'train_loss'" in str(caught.value)
    assert isinstance(caught.value, MisconfigurationException)
    assert isinstance(caught.value, RuntimeError)
    assert names() == []


def test_a_metric_that_comes_later_is_waited_for() -> None:
    with pytest.warns(PossibleUserWarning, match="has not been logged yet"):
        fit(Scripted(), ModelCheckpoint(monitor="epoch_number", every_n_train_steps=3, mode="max", save_top_k=-1))
    assert names() == ["epoch=1-step=6.ckpt", "epoch=2-step=12.ckpt", "epoch=2-step=9.ckpt"]


def test_on_exception_an_extra_file_is_written_when_asked() -> None:
    callback = ModelCheckpoint(monitor="val_loss", save_on_exception=True, save_last=True)
    with pytest.raises(ValueError, match="by order"):
        fit(Validated(1.0, fails_at=6), callback)
    assert names() == ["epoch=0-step=4.ckpt", "epoch=1-step=6.ckpt", "last.ckpt"]
    assert step_of("checkpoints/last.ckpt") == 6
    assert Path(callback.best_model_path).name == "epoch=0-step=4.ckpt"


def test_on_exception_nothing_is_written_unless_asked() -> None:
    with pytest.raises(ValueError, match="by order"):
        fit(Validated(1.0, fails_at=6), ModelCheckpoint(monitor="val_loss"))
    assert names() == ["epoch=0-step=4.ckpt"]


def test_a_failed_write_leaves_the_books_as_they_were() -> None:
    class DiskFull(ModelCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            if trainer.current_epoch == 1:
                raise CheckpointWriteFailed("no space left")
            super()._save_checkpoint(trainer, filepath)

    callback = DiskFull(monitor="val_loss", save_on_exception=True)
    with pytest.raises(CheckpointWriteFailed):
        fit(Validated(2.0, 1.0), callback)
    assert names() == ["epoch=0-step=4.ckpt"]
    assert callback.best_model_score == torch.tensor(2.0)
    assert step_of(callback.best_model_path) == 4


def test_a_folder_with_anything_in_it_is_never_emptied() -> None:
    os.makedirs("kept")
    Path("kept/epoch=0-step=4.ckpt").write_text("mine")
    Path("kept/notes.txt").write_text("mine too")
    with pytest.warns(PossibleUserWarning, match="is not empty"):
        fit(Scripted(), ModelCheckpoint(dirpath="kept"), epochs=1)
    assert names("kept") == ["epoch=0-step=4-v1.ckpt", "epoch=0-step=4.ckpt", "notes.txt"]
    assert Path("kept/epoch=0-step=4.ckpt").read_text() == "mine"


# -- names
def test_version_counter_for_names_that_repeat() -> None:
    callback = ModelCheckpoint(monitor="val_loss", filename="x", save_top_k=2)
    fit(Validated(3.0, 1.0, 2.0), callback)
    assert names() == ["x-v1.ckpt", "x.ckpt"]
    assert {step_of(path): float(score) for path, score in callback.best_k_models.items()} == {8: 1.0, 12: 2.0}


def test_the_only_file_is_replaced_under_its_name() -> None:
    fit(Scripted(), ModelCheckpoint(filename="x"))
    assert names() == ["x.ckpt"]
    assert step_of("checkpoints/x.ckpt") == 12


def test_without_a_version_counter_names_are_reused() -> None:
    callback = ModelCheckpoint(monitor="val_loss", filename="x", save_top_k=2, enable_version_counter=False)
    fit(Validated(3.0, 2.0), callback, epochs=2)
    assert names() == ["x.ckpt"]
    assert list(map(float, callback.best_k_models.values())) == [2.0]


@pytest.mark.parametrize(
    ("filename", "insert", "expected"),
    [
        (None, True, "epoch=1-step=7.ckpt"),
        (None, False, "1-7.ckpt"),
        ("{epoch:02d}-{val_loss:.2f}", True, "epoch=01-val_loss=0.12.ckpt"),
        ("{epoch:02d}-{val_loss:.2f}", False, "01-0.12.ckpt"),
        ("{val/acc}", True, "val_acc=2.ckpt"),
        ("run/{epoch}", True, "run/epoch=1.ckpt"),
        ("{missing}", True, "missing=0.ckpt"),
        ("plain", True, "plain.ckpt"),
    ],
)
def test_format_checkpoint_name(filename: str | None, insert: bool, expected: str) -> None:
    callback = ModelCheckpoint(auto_insert_metric_name=insert)
    metrics: Any = {"epoch": 1, "step": torch.tensor(7), "val_loss": torch.tensor(0.1234), "val/acc": torch.tensor(2)}
    assert callback.format_checkpoint_name(metrics, filename) == expected
    assert callback.format_checkpoint_name(metrics, filename, ver=3) == expected.replace(".ckpt", "-v3.ckpt")


def test_format_checkpoint_name_stands_in_the_folder_and_takes_a_prefix() -> None:
    callback = ModelCheckpoint(dirpath="kept", filename="f-{epoch}")
    assert callback.format_checkpoint_name({"epoch": torch.tensor(1)}) == os.path.abspath("kept/f-epoch=1.ckpt")
    assert Path(callback.format_checkpoint_name({}, "x", prefix="test")).name == "test-x.ckpt"


def test_the_characters_of_names_can_be_changed() -> None:
    class Hydra(ModelCheckpoint):
        CHECKPOINT_EQUALS_CHAR = ":"
        CHECKPOINT_JOIN_CHAR = "_"
        FILE_EXTENSION = ".pt"

    metrics: Any = {"epoch": 1, "step": 7, "val/acc": 0.5}
    assert Hydra().format_checkpoint_name(metrics) == "epoch:1_step:7.pt"
    assert Hydra().format_checkpoint_name(metrics, "{val/acc:.1f}", ver=2) == "val_acc:0.5_v2.pt"


def test_a_subclass_may_name_files_itself() -> None:
    class Named(ModelCheckpoint):
        def format_checkpoint_name(self, metrics: Any, filename: Any = None, ver: Any = None, prefix: Any = None) -> str:
            return os.path.join(self.dirpath or "", f"mine-{int(metrics['epoch'])}.ckpt")

    fit(Scripted(), Named())
    assert names() == ["mine-2.ckpt"]


# -- the same run, again
def test_state_has_lightnings_keys_and_its_own_key() -> None:
    callback = ModelCheckpoint(monitor="val_loss", every_n_epochs=2)
    assert callback.state_key == (
        "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 2, "
        "'train_time_interval': None}"
    )
    assert {
        "monitor",
        "best_model_score",
        "best_model_path",
        "current_score",
        "dirpath",
        "best_k_models",
        "kth_best_model_path",
        "kth_value",
        "last_model_path",
    } <= set(callback.state_dict())


def test_a_state_of_lightnings_is_taken() -> None:
    folder = os.path.abspath("kept")
    best = os.path.join(folder, "a.ckpt")
    callback = ModelCheckpoint(dirpath="kept", monitor="val_loss")
    callback.load_state_dict(
        {
            "monitor": "val_loss",
            "best_model_score": torch.tensor(1.0),
            "best_model_path": best,
            "current_score": torch.tensor(1.0),
            "dirpath": folder,
            "best_k_models": {best: torch.tensor(1.0)},
            "kth_best_model_path": best,
            "kth_value": torch.tensor(1.0),
            "last_model_path": os.path.join(folder, "last.ckpt"),
        }
    )
    assert callback.best_model_path == best
    assert callback.best_model_score == torch.tensor(1.0)
    assert callback.last_model_path.endswith("last.ckpt")


def test_in_another_folder_only_the_best_path_is_taken() -> None:
    first = ModelCheckpoint(dirpath="one", monitor="val_loss")
    fit(Validated(1.0), first, epochs=1)
    second = ModelCheckpoint(dirpath="two", monitor="val_loss")
    with pytest.warns(PossibleUserWarning, match="only best_model_path is taken over"):
        second.load_state_dict(first.state_dict())
    assert second.best_model_path == first.best_model_path
    assert second.best_k_models == {}


def test_the_best_of_a_logger_s_earlier_folder_stay_the_best() -> None:
    def run(epochs: int, ckpt_path: str | None = None) -> ModelCheckpoint:
        callback = ModelCheckpoint(monitor="val_loss", save_last=True)
        fit(Validated(5.0, 1.0, 3.0), callback, epochs, ckpt_path=ckpt_path, logger=leyden.loggers.CSVLogger("logs"))
        return callback

    first = run(2)
    second = run(3, first.last_model_path)
    assert first.dirpath != second.dirpath
    assert second.best_model_path == first.best_model_path
    assert second.best_model_score == torch.tensor(1.0)
    assert os.path.dirname(second.last_model_path) == second.dirpath
    assert step_of(second.last_model_path) == 12
    assert os.path.exists(first.last_model_path)


def test_a_folder_that_was_moved_is_recognised() -> None:
    first = ModelCheckpoint(dirpath="one", monitor="val_loss", save_last=True)
    fit(Validated(1.0), first, epochs=1)
    os.rename("one", "two")
    second = ModelCheckpoint(dirpath="two", monitor="val_loss", save_last=True)
    second.load_state_dict(first.state_dict())
    assert second.best_model_path == os.path.abspath("two/epoch=0-step=4.ckpt")
    assert second.last_model_path == os.path.abspath("two/last.ckpt")
    assert list(second.best_k_models) == [second.best_model_path]


def make(kind: type[ModelCheckpoint] = ModelCheckpoint) -> ModelCheckpoint:
    return kind(dirpath="kept", monitor="val_loss", save_top_k=2, save_last=True)


SCORES = (5.0, 3.0, 4.0, 2.0)


def test_a_resumed_run_goes_on_with_the_same_files() -> None:
    whole = make()
    fit(Validated(*SCORES), whole, epochs=4)
    expected = names("kept"), {Path(path).name: float(score) for path, score in whole.best_k_models.items()}
    for name in names("kept"):
        os.remove(os.path.join("kept", name))
    first = make()
    fit(Validated(*SCORES), first, epochs=2)
    second = make()
    fit(Validated(*SCORES), second, epochs=4, ckpt_path=first.last_model_path)
    assert (names("kept"), {Path(path).name: float(score) for path, score in second.best_k_models.items()}) == expected
    assert step_of(second.last_model_path) == 16


def test_a_crash_between_writing_and_removing_leaves_nothing_behind() -> None:
    class Crash(Exception):
        pass

    class Crashing(ModelCheckpoint):
        state_key = make().state_key

        def _remove_checkpoint(self, trainer: Any, filepath: str) -> None:
            raise Crash

    with pytest.raises(Crash):
        fit(Validated(*SCORES), make(Crashing), epochs=4)
    assert names("kept") == ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt", "last.ckpt"]
    fit(Validated(*SCORES), make(), epochs=4, ckpt_path="kept/last.ckpt")
    assert names("kept") == ["epoch=1-step=8.ckpt", "epoch=3-step=16.ckpt", "last.ckpt"]


def test_a_crash_before_last_was_renewed_is_mended() -> None:
    fit(Validated(*SCORES), make(), epochs=2)
    os.link("kept/last.ckpt", "older.ckpt")
    fit(Validated(*SCORES), make(), epochs=3, ckpt_path="kept/last.ckpt")
    os.replace("older.ckpt", "kept/last.ckpt")
    assert step_of("kept/last.ckpt") == 8
    fit(Validated(*SCORES), make(), epochs=4, ckpt_path="kept/epoch=2-step=12.ckpt", limit_train_batches=1, max_steps=13)
    assert step_of("kept/last.ckpt") == 13


def test_what_is_resumed_from_stays_until_something_newer_is_written() -> None:
    seen = []

    class Watching(ModelCheckpoint):
        state_key = make().state_key

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_start(trainer, pl_module)
            seen.append(names("kept"))

    fit(Validated(1.0, 2.0, 3.0), make(), epochs=3)
    os.link("kept/last.ckpt", "kept/epoch=2-step=12.ckpt")
    fit(Validated(1.0, 2.0, 3.0, 0.0), make(Watching), epochs=4, ckpt_path="kept/epoch=2-step=12.ckpt")
    assert seen == [["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12.ckpt", "last.ckpt"]]


def test_files_of_the_future_that_is_given_up_are_written_anew_and_have_no_twins() -> None:
    fit(Validated(*SCORES), make(), epochs=2)
    early = torch.load("kept/last.ckpt", weights_only=True)
    assert early["global_step"] == 8
    os.link("kept/last.ckpt", "kept/early.ckpt")
    # what a run leaves that was killed after its third epoch's file, before `last` was renewed
    fit(Validated(*SCORES), make(), epochs=3, ckpt_path="kept/early.ckpt")
    os.replace("kept/early.ckpt", "kept/last.ckpt")
    fit(Validated(*SCORES), make(), epochs=4, ckpt_path="kept/last.ckpt")
    assert not [name for name in names("kept") if "-v" in name]
    assert "epoch=3-step=16.ckpt" in names("kept")
    assert step_of("kept/last.ckpt") == 16


def test_the_last_of_a_run_that_judged_nothing_goes_when_something_is_judged(tmp_path: Path) -> None:
    def once(**limit: Any) -> ModelCheckpoint:
        callback = ModelCheckpoint(tmp_path, monitor="val_loss", filename="best")
        fit(Validated(3.0, 2.0, 1.0), callback, ckpt_path="last", **limit)
        return callback

    with pytest.warns(PossibleUserWarning, match="ModelCheckpoint was to save by 'val_loss'"):
        assert once(max_steps=2).last_model_path == str(tmp_path / "last.ckpt")
    assert names(tmp_path) == ["last.ckpt"]
    assert once().last_model_path == ""
    assert names(tmp_path) == ["best.ckpt"]


def test_a_second_fit_is_judged_by_itself() -> None:
    callback = ModelCheckpoint(monitor="val_loss", filename="{val_loss:.0f}")
    trainer = fit(Validated(1.0), callback, epochs=1)
    trainer.fit(Validated(2.0))
    assert callback.best_model_score == torch.tensor(2.0)
    assert names() == ["val_loss=1.ckpt", "val_loss=2.ckpt"]


# -- what a Trainer has by itself
def test_by_default_best_and_last_are_kept_with_a_validation_loss() -> None:
    callback = default_checkpoint()
    fit(Validated(5.0, 3.0, 4.0), callback)
    assert names() == ["epoch=1-step=8.ckpt", "last.ckpt"]
    assert callback.monitor == "val_loss"
    assert callback.best_model_score == torch.tensor(3.0)
    assert step_of(callback.last_model_path) == 12


def test_by_default_the_newest_is_kept_without_one_under_the_name_that_lightning_gives() -> None:
    callback = default_checkpoint()
    fit(Scripted(), callback)
    assert names() == ["epoch=2-step=12.ckpt", "last.ckpt"]
    assert os.path.samefile(callback.best_model_path, callback.last_model_path)  # no second copy on the disk
    assert callback.best_model_score is None
    assert step_of(callback.last_model_path) == 12


def test_by_default_a_validation_loss_that_comes_later_takes_over() -> None:
    callback = default_checkpoint()
    fit(Validated(3.0, 4.0), callback, epochs=4, check_val_every_n_epoch=2)
    assert names() == ["epoch=1-step=8.ckpt", "last.ckpt"]
    assert Path(callback.best_model_path).name == "epoch=1-step=8.ckpt"


def test_the_default_keeps_its_choice_over_a_resume() -> None:
    first = default_checkpoint()
    fit(Validated(*SCORES), first, epochs=2)
    second = default_checkpoint()
    assert second.state_key == first.state_key
    fit(Validated(*SCORES), second, epochs=4, ckpt_path=first.last_model_path)
    assert names() == ["epoch=3-step=16.ckpt", "last.ckpt"]
    assert second.best_model_score == torch.tensor(2.0)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (["val_loss", "valid_loss"], "val_loss"),
        (["val/loss", "train_loss"], "val/loss"),
        (["valid_loss"], "valid_loss"),
        (["avg_val_loss", "val_acc"], "avg_val_loss"),
        (["Val/Loss"], "Val/Loss"),
        (["val/loss", "val/loss_step", "val/loss_epoch"], "val/loss"),
        (["val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"], None),
        (["train_loss", "val_acc"], None),
        ([], None),
    ],
)
def test_validation_loss(metrics: list[str], expected: str | None) -> None:
    assert validation_loss(metrics) == expected


# -- arguments
def test_positions_of_the_arguments() -> None:
    callback = ModelCheckpoint("kept", "{epoch}", "val_loss", True, True, 3, True, True, "max", False, 5, None, None, True, False)
    assert callback.dirpath == os.path.abspath("kept")
    assert (callback.filename, callback.monitor, callback.verbose, callback.save_last) == ("{epoch}", "val_loss", True, True)
    assert (callback.save_top_k, callback.save_on_exception, callback.save_weights_only) == (3, True, True)
    assert (callback.mode, callback.auto_insert_metric_name, callback.every_n_epochs) == ("max", False, 0)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"dirpath": 3}, InvalidType, "dirpath=3"),
        ({"filename": 3}, InvalidType, "filename=3"),
        ({"monitor": 3}, InvalidType, "monitor=3"),
        ({"save_last": "yes"}, InvalidOption, "save_last='yes'"),
        ({"save_top_k": -2}, InvalidOption, "save_top_k=-2"),
        ({"save_weights_only": "no"}, InvalidType, "save_weights_only='no'"),
        ({"save_on_exception": None}, InvalidType, "save_on_exception=None"),
        ({"mode": "least"}, InvalidOption, "mode='least'"),
        ({"every_n_train_steps": -1}, InvalidOption, "every_n_train_steps=-1"),
        ({"every_n_epochs": -1}, InvalidOption, "every_n_epochs=-1"),
        ({"train_time_interval": timedelta(seconds=-1)}, InvalidOption, "train_time_interval"),
        ({"train_time_interval": 5}, InvalidType, "train_time_interval=5"),
        ({"every_n_train_steps": 1, "every_n_epochs": 1}, ConflictingOptions, "mutually exclusive"),
        ({"every_n_train_steps": 1, "train_time_interval": timedelta(1)}, ConflictingOptions, "mutually exclusive"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        ModelCheckpoint(**options)
    assert isinstance(caught.value, MisconfigurationException)


def test_weights_only() -> None:
    fit(Scripted(), ModelCheckpoint(save_weights_only=True, filename="x"), epochs=1)
    assert "optimizer_states" not in torch.load("checkpoints/x.ckpt", weights_only=True)


def test_loggers_are_told_and_verbose_says_it(caplog: pytest.LogCaptureFixture) -> None:
    told = []

    class Listening(leyden.loggers.CSVLogger):
        def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
            told.append(checkpoint_callback)

    callback = ModelCheckpoint(monitor="val_loss", verbose=True)
    with caplog.at_level("INFO", logger="leyden"):
        trainer = fit(Validated(1.0, 2.0), callback, 2, logger=Listening("logs"))
    assert told == [callback]
    assert callback.dirpath == os.path.join(os.path.abspath(str(trainer.log_dir)), "checkpoints")
    assert "val_loss = 1" in caplog.text
    assert "is not among the best 1" in caplog.text


def test_to_yaml() -> None:
    callback = ModelCheckpoint(dirpath="kept", monitor="val_loss")
    fit(Validated(1.5), callback, epochs=1)
    callback.to_yaml()
    assert Path("kept/best_k_models.yaml").read_text() == f'"{callback.best_model_path}": 1.5\n'
    callback.to_yaml("other.yaml")
    assert Path("other.yaml").exists()
    with pytest.raises(InvalidOption, match="filepath"):
        ModelCheckpoint().to_yaml()


def test_a_folder_reached_through_fsspec() -> None:
    import fsspec

    callback = ModelCheckpoint(dirpath="memory://runs/one", monitor="val_loss", save_last=True)
    fit(Validated(3.0, 1.0, 2.0), callback)
    found = sorted(path.rsplit("/", 1)[1] for path in fsspec.filesystem("memory").ls("/runs/one", detail=False))
    assert found == ["epoch=1-step=8.ckpt", "last.ckpt"]


def test_whether_a_score_is_among_the_best() -> None:
    """As Lightning answers; NaN is the worst."""
    callback, run = ModelCheckpoint(monitor="val_loss", save_top_k=2), kit.trainer()
    assert not callback.check_monitor_top_k(run)
    for score, kept in ((3.0, True), (2.0, True), (4.0, False), (float("nan"), False), (2.5, True), (1.0, True)):
        assert callback.check_monitor_top_k(run, torch.tensor(score)) is kept
        if score in (3.0, 2.0):
            callback.retention.offer(str(score), torch.tensor(score))
    assert ModelCheckpoint(save_top_k=-1).check_monitor_top_k(run, torch.tensor(float("nan")))
    assert not ModelCheckpoint(save_top_k=0).check_monitor_top_k(run, torch.tensor(1.0))


# -- OnExceptionCheckpoint
def test_on_exception_checkpoint() -> None:
    callback = OnExceptionCheckpoint("kept")
    assert callback.ckpt_path == os.path.abspath(os.path.join("kept", "on_exception.ckpt"))
    fit(Scripted(), callback, epochs=1)
    assert not os.path.exists("kept")
    with pytest.raises(ValueError, match="by order"):
        fit(Scripted(fails_at=2), callback)
    assert step_of("kept/on_exception.ckpt") == 2


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_on_exception_checkpoint_of_other_verbs(verb: str) -> None:
    def fail(*_: Any) -> None:
        raise kit.Crash

    run = kit.trainer(OnExceptionCheckpoint("kept"), limit_train_batches=3, limit_val_batches=1)
    run.fit(kit.Logging())
    with pytest.raises(kit.Crash):
        getattr(run, verb)(
            type("Failing", (kit.Logging,), dict.fromkeys(["validation_step", "test_step", "predict_step"], fail))()
        )
    assert step_of("kept/on_exception.ckpt") == 3


def test_on_exception_checkpoint_refuses() -> None:
    with pytest.raises(InvalidOption, match="filename=''"):
        OnExceptionCheckpoint("kept", filename="")
    with pytest.raises(InvalidType, match="dirpath=3"):
        OnExceptionCheckpoint(3)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(InvalidType, match="filename=3 cannot be used"):
        OnExceptionCheckpoint("kept", 3)  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("kind", [ModelCheckpoint, OnExceptionCheckpoint])
@pytest.mark.parametrize("storage", [TorchCheckpointIO, AsyncCheckpointIO, ShardedCheckpointIO])
@pytest.mark.parametrize("folder", ["file", "file/below", "locked", "locked/below", "/proc/below", "a\0b", "x" * 300])
def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(
    kind: Any, folder: str, storage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path))  # root may write anywhere
    module = Scripted(fails_at=1)
    with pytest.raises(CheckpointWriteFailed, match="No checkpoint can be written into"):
        fit(module, kind(tmp_path / folder), plugins=[storage()])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "locked"]


@pytest.mark.parametrize("kind", [ModelCheckpoint, OnExceptionCheckpoint])
def test_a_storage_of_ones_own_needs_no_folder(kind: Any, tmp_path: Path) -> None:
    class Elsewhere(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            saved.append(path)

    saved: list[Any] = []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="by order"):
        fit(Scripted(fails_at=5), kind(tmp_path / "file"), plugins=[Elsewhere()])
    assert saved


@pytest.mark.parametrize(
    ("base", "inner"),
    [
        (CheckpointIO, ()),
        (TorchCheckpointIO, ()),
        (ShardedCheckpointIO, ()),
        (AsyncCheckpointIO, ()),
        (AsyncCheckpointIO, (ShardedCheckpointIO(),)),
    ],
)
def test_a_storage_of_ones_own_writes_the_last_as_every_other(base: Any, inner: Any, tmp_path: Path) -> None:
    class Listed(base):  # type: ignore[misc]  # whichever it is
        def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
            there[os.fspath(path)] = copy.deepcopy(checkpoint)
            Path(path).touch()  # it is in the list that it is looked up

        def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
            return there[os.fspath(path)]

        def remove_checkpoint(self, path: Any) -> None:
            del there[os.fspath(path)]
            os.remove(path)

    there: dict[str, Any] = {}
    fit(Scripted(), ModelCheckpoint(tmp_path, save_last=True, filename="{step}"), epochs=2, plugins=[Listed(*inner)])
    assert sorted(os.path.basename(path) for path in there) == ["last.ckpt", "step=8.ckpt"]
    assert there[str(tmp_path / "last.ckpt")]["global_step"] == 8


@pytest.mark.parametrize(("name", "said"), [("val_los", r"Did you mean 'val_loss'\?"), ("accuracy", "There are: 'epoch'")])
@pytest.mark.parametrize("trigger", [{}, {"every_n_epochs": 2}, {"every_n_train_steps": 6}])
def test_a_metric_in_the_filename_that_nobody_logs(name: str, said: str, trigger: Any, tmp_path: Path) -> None:
    callback = ModelCheckpoint(tmp_path / "kept", filename=f"{{epoch}}-{{{name}:.2f}}", save_top_k=-1, **trigger)
    with pytest.raises(MissingMonitor, match=rf"names the metric '{name}', which was not logged\..*{said}"):
        fit(Validated(3.0, 2.0), callback, epochs=3)
    assert not list(tmp_path.glob("kept/*.ckpt"))


def test_a_metric_in_the_filename_that_is_logged_later(tmp_path: Path) -> None:
    """Before the first validation its metric counts as 0: it may still come, and does."""
    callback = ModelCheckpoint(tmp_path / "kept", filename="{step}-{val_loss:.1f}", every_n_train_steps=1, save_top_k=-1)
    with pytest.warns(
        PossibleUserWarning, match="names 'val_loss', which is not among the logged metrics and counts as 0"
    ) as said:
        fit(Validated(3.0, 2.0), callback, epochs=1)
    assert len(said) == 1
    assert sorted(path.name for path in tmp_path.glob("kept/*"))[0] == "step=1-val_loss=0.0.ckpt"


def test_names_of_files_that_a_subclass_puts_together(tmp_path: Path) -> None:
    class Own(ModelCheckpoint):
        def format_checkpoint_name(self, metrics: Any, *args: Any, **kwargs: Any) -> str:
            return super().format_checkpoint_name({**metrics, "fold": torch.tensor(3)}, *args, **kwargs)

    fit(Validated(3.0), Own(tmp_path / "kept", filename="{fold}"), epochs=1)
    assert [path.name for path in tmp_path.glob("kept/*")] == ["fold=3.ckpt"]
