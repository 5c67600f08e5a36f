"""The line with which a training begins, and the one with which it ends: true in every way in which a run can go."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Clock, Crash, Net, at_batch

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer
from leyden.errors import NonFiniteLoss, TrainingTerminated
from leyden.loggers import CSVLogger, Logger
from leyden.loggers.base import DummyLogger

SHOWN: dict[str, Any] = {"enable_progress_bar": True}


def data(batches: int = 4) -> Any:
    return torch.utils.data.DataLoader(torch.ones(batches, 4))


def told(capsys: pytest.CaptureFixture[str], *callbacks: Any, module: Any = None, **options: Any) -> tuple[str, str]:
    """The first and the last line of a fit."""
    trainer = kit.trainer(*callbacks, **{**SHOWN, **options})
    trainer.fit(Net() if module is None else module, data(), data(2))
    lines = capsys.readouterr().out.splitlines()
    return lines[0], lines[-1]


class Mine(Logger):
    name, version = "mine", 3

    def log_metrics(self, metrics: Any, step: int | None = None) -> None: ...

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


# -- at the start


def test_it_says_where_and_with_what(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    first, last = told(capsys, logger=True, enable_checkpointing=True, precision="64-true", max_epochs=2)
    assert first == (
        "Training on CPU, precision 64-true, 1 process. Logs: TensorBoard in lightning_logs/version_0. "
        "Checkpoints: lightning_logs/version_0/checkpoints."
    )
    found = re.fullmatch(
        r"Training ended after 2 epochs and 8 steps in 0:00:\d\d: max_epochs=2 was reached\. Best checkpoint: (\S+) "
        r"\(val_loss [\d.e-]+\), last: (\S+)\.",
        last,
    )
    assert found, last
    assert (own_folder / found[1]).is_file()
    assert (own_folder / found[2]).is_file()


def test_without_tensorboard_the_default_is_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, own_folder: Path
) -> None:
    monkeypatch.setattr("leyden.assemble.find_spec", lambda name: None)
    first, _ = told(capsys, logger=None, log_every_n_steps=1)
    assert "Logs: CSV in lightning_logs/version_0." in first
    assert len(kit.rows(own_folder / "lightning_logs" / "version_0")) == 5


def test_limits_that_are_only_defaults_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = told(capsys, EarlyStopping("val_loss", stopping_threshold=1e9), max_epochs=None)
    assert "Up to 1000 epochs, which is only the default: max_epochs= sets another limit." in first
    for options in (
        {"max_steps": 3},
        {"max_time": {"days": 1}, "limit_train_batches": 1, "max_steps": 1},
        {"fast_dev_run": True},
    ):
        first, _ = told(capsys, **{"max_epochs": None, **options})
        assert "default" not in first
    trainer = kit.trainer(max_epochs=None, **SHOWN)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(Net(), data(), data())
    assert "default" not in capsys.readouterr().out


def test_nothing_is_written_is_said_too(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    first, last = told(capsys)
    assert first.endswith("Logs: none. Checkpoints: none.")
    assert last.endswith("max_epochs=1 was reached.")
    first, last = told(capsys, fast_dev_run=True)
    assert first.endswith("fast_dev_run: 1 batch of each, and nothing is written.")
    assert os.listdir(own_folder) == []


@pytest.mark.parametrize("shown", ["enable_progress_bar", "enable_model_summary"])
def test_both_stand_where_the_bar_or_the_summary_does(capsys: pytest.CaptureFixture[str], shown: str) -> None:
    kit.fit(Net(), data(), data(), **{shown: True})
    assert capsys.readouterr().out.count("Training ") == 2
    kit.fit(Net(), data(), data())
    assert capsys.readouterr().out == ""


# -- at the end


def signalled(number: int) -> Any:
    return at_batch(1, lambda: os.kill(os.getpid(), number))


class Jumps(Net):
    """The validation loss of each epoch is given."""

    def __init__(self, *losses: float) -> None:
        super().__init__()
        self.losses = losses

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", torch.tensor(self.losses[self.current_epoch]))


def test_early_stopping_says_what_has_not_improved_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    _, last = told(
        capsys, EarlyStopping("val_loss", patience=2), module=Jumps(3, 1, 2, 2, 2), max_epochs=5, num_sanity_val_steps=0
    )
    assert ": val_loss has not improved for 2 epochs, best 1 at epoch 2." in last
    _, last = told(
        capsys,
        EarlyStopping("val_loss", patience=2),
        module=Jumps(3, 3, 3),
        max_epochs=3,
        val_check_interval=2,
        num_sanity_val_steps=0,
    )
    assert ": val_loss has not improved for 2 checks, best 3 at epoch 1." in last


def test_a_resumed_run_remembers_the_best_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    def run(**options: Any) -> leyden.Trainer:
        callbacks = [EarlyStopping("val_loss", patience=3), ModelCheckpoint("kept", save_last=True)]
        return kit.trainer(*callbacks, **{**SHOWN, "enable_checkpointing": True, "num_sanity_val_steps": 0, **options})

    run(max_epochs=3).fit(Jumps(3, 1, 2), data(), data())
    run(max_epochs=9).fit(Jumps(*[2.0] * 9), data(), data(), ckpt_path="last")
    assert "val_loss has not improved for 3 epochs, best 1 at epoch 2" in capsys.readouterr().out


WISHES: list[tuple[Any, dict[str, Any], str]] = [
    (at_batch(1, lambda: None), {"max_steps": 3}, "max_steps=3 was reached"),
    (at_batch(1, lambda: None), {"limit_train_batches": 0}, "limit_train_batches=0 leaves nothing to train on"),
    (leyden.testing.Recorder(on_train_start=lambda run, *_: run.stop("enough of it")), {}, "enough of it"),
    (
        leyden.testing.Recorder(on_train_start=lambda run, *_: setattr(run, "should_stop", True)),
        {},
        "a stop was wished (trainer.should_stop was set)",
    ),
]


@pytest.mark.parametrize(("callback", "options", "why"), WISHES, ids=[why for _, _, why in WISHES])
def test_the_reason_is_the_true_one(capsys: pytest.CaptureFixture[str], callback: Any, options: Any, why: str) -> None:
    _, last = told(capsys, callback, **options)
    assert f": {why}." in last


def test_a_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    timer = Timer({"seconds": 90}, verbose=False, clock=clock)
    _, last = told(capsys, timer, at_batch(1, lambda: setattr(clock, "now", 1000.0)))
    assert ": the time limit of 0:01:30 was reached." in last


def test_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    _, last = told(capsys, signalled(signal.SIGINT))
    assert ": Ctrl-C was pressed." in last


@pytest.mark.parametrize(
    ("callback", "error", "why"),
    [
        (signalled(signal.SIGTERM), TrainingTerminated, "SIGTERM arrived"),
        (at_batch(2, lambda: (_ for _ in ()).throw(Crash())), Crash, "Crash was raised"),
    ],
    ids=["signal", "error"],
)
def test_what_is_raised_is_told_too(
    capsys: pytest.CaptureFixture[str], callback: Any, error: type[BaseException], why: str
) -> None:
    with pytest.raises(error):
        told(capsys, callback)
    assert f": {why}." in capsys.readouterr().out.splitlines()[-1]


def test_a_loss_that_is_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    class Bad(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * float("nan")

    with pytest.raises(NonFiniteLoss):
        told(capsys, module=Bad())
    assert ": the training loss became nan in training batch 0 of this fit." in capsys.readouterr().out.splitlines()[-1]


def test_a_fit_that_is_refused_before_it_begins_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(leyden.errors.MissingMethod):
        kit.trainer(**SHOWN).fit(leyden.LightningModule(), data())
    assert capsys.readouterr().out == ""


def test_a_step_that_failed_and_was_got_past_is_pointed_at(capsys: pytest.CaptureFixture[str]) -> None:
    def run(net: Net) -> None:
        kit.trainer(logger=CSVLogger(".", "logs", version="one"), enable_checkpointing=True, max_epochs=2).fit(
            net, data(), data(), ckpt_path="last"
        )

    class Broken(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if self.trainer.leyden_fit.progress.batches == 5:
                raise Crash
            return super().training_step(batch, batch_idx)

    with pytest.raises(Crash):
        run(Broken())
    assert "earlier attempt" not in capsys.readouterr().out
    run(Net())
    assert "logs/one/crash keeps a step that failed in an earlier attempt of this run" in capsys.readouterr().out


def test_a_narrow_terminal_breaks_between_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("leyden.callbacks.progress.story.is_terminal", lambda file: True)
    monkeypatch.setenv("COLUMNS", "40")
    kit.fit(Net(), data(), data(), enable_model_summary=True, callbacks=[])
    out = capsys.readouterr().out
    lines = out[: out.index("\n  |")].splitlines()
    assert len(lines) > 1
    assert all(len(line) < 40 for line in lines)
    assert " ".join(map(str.strip, lines)) == "Training on CPU, precision 32-true, 1 process. Logs: none. Checkpoints: none."


# -- where the files land


@pytest.mark.parametrize(
    ("loggers", "folder"),
    [
        ([Mine], "mine/version_3"),
        ([Mine, lambda: CSVLogger("csv", "x", version=7)], "mine/version_3"),
        ([lambda: CSVLogger("csv", "x", version=7), Mine], "csv/x/version_7"),
        ([type("Named", (Mine,), {"version": "tuesday"})], "mine/tuesday"),
        ([type("Placed", (Mine,), {"save_dir": "there"})], "there/mine/version_3"),
        ([type("Unnamed", (Mine,), {"name": None, "version": None})], ""),
        ([DummyLogger], ""),
        ([], ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_checkpoints_stand_in_the_first_logger_s_folder(loggers: list[Any], folder: str, own_folder: Path) -> None:
    trainer = kit.trainer(logger=[make() for make in loggers], enable_checkpointing=True)
    trainer.fit(Net(), data(), data())
    expected = own_folder / folder / "checkpoints"
    assert Path(trainer.checkpoint_callback.best_model_path).parent == expected
    again = kit.trainer(logger=[make() for make in loggers], enable_checkpointing=True, max_epochs=2)
    again.fit(Net(), data(), data(), ckpt_path="last")
    assert again.ckpt_path is not None
    assert Path(again.ckpt_path).parent == expected


def test_the_default_run_is_found_again(own_folder: Path) -> None:
    for epochs in (1, 2):
        trainer = kit.trainer(logger=True, enable_checkpointing=True, max_epochs=epochs)
        trainer.fit(Net(), data(), data(), ckpt_path="last")
    assert os.listdir(own_folder / "lightning_logs") == ["version_0"]
    assert trainer.leyden_fit.progress.step == 8
    trainer.logger.experiment.add_histogram("weights", torch.ones(3))  # type: ignore[union-attr]  # there is one
    assert [name for name in os.listdir(trainer.log_dir or "") if "tfevents" in name]


# -- warnings


class Twice(Net):
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)


WARNED: dict[str, Any] = {
    "a metric that is not there": lambda: kit.fit(
        Net(), data(), data(), callbacks=[EarlyStopping("nothing", strict=False)], num_sanity_val_steps=0
    ),
    "a folder that is not empty": lambda: kit.fit(
        Net(), data(), data(), callbacks=[ModelCheckpoint("full")], enable_checkpointing=True
    ),
    "a hook that is called less often": lambda: kit.fit(
        Twice(), data(), data(), callbacks=[leyden.callbacks.GradientAccumulationScheduler({0: 2})]
    ),
    "no validation loader": lambda: kit.fit(Net(), data()),
}


@pytest.mark.parametrize("deed", WARNED)
def test_a_warning_points_at_the_user_s_line(deed: str, own_folder: Path) -> None:
    (own_folder / "full").mkdir()
    (own_folder / "full" / "theirs.ckpt").touch()
    with pytest.warns(leyden.errors.LeydenWarning) as caught:
        WARNED[deed]()
    assert {Path(warning.filename).name for warning in caught} == {"kit.py"}  # where fit is called
