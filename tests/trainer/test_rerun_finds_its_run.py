"""The same command, given again, finds what it wrote, whatever it is called, wherever the process stands and whatever clocks say;
two at once are not let into one folder."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
from kit import Crash, at_batch

import leyden
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.checkpoint.durable import hold_folder, let_go
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.errors import CheckpointError, LeydenWarning, PossibleUserWarning
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.testing import Recorder

trainer = partial(kit.trainer, max_epochs=3, enable_checkpointing=None)


def crashes(at: int) -> Recorder:
    def crash() -> None:
        raise Crash

    return at_batch(at, crash)


def fit(run: leyden.Trainer, ckpt_path: Any = "last") -> int:
    """Train, or go on; the batch at which that began."""
    began: list[int] = []
    run.callbacks.insert(0, Recorder(on_train_batch_start=lambda run, *_: began.append(run.leyden_fit.progress.batches)))
    with contextlib.suppress(Crash):
        run.fit(kit.Tiny(), kit.ones(4), ckpt_path=ckpt_path)
    return began[0]


@pytest.mark.parametrize("given", [True, False])
def test_what_is_written_after_an_exception_is_found(given: bool) -> None:
    def again(at: int | None) -> int:
        own = [ModelCheckpoint("kept")] if given else []
        os.makedirs("after", exist_ok=True)
        Path("after/x.ckpt").write_text("of somebody else")
        callbacks = [OnExceptionCheckpoint("after", "failed"), *own, *([] if at is None else [crashes(at)])]
        return fit(trainer(*callbacks, enable_checkpointing=None if given else False))

    assert [again(6), again(9), again(None)] == [0, 6, 9]


def test_a_newer_run_that_saved_nothing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    fit(trainer(logger=None), None)
    fit(trainer(crashes(1), logger=None), None)
    capsys.readouterr()
    assert fit(trainer(logger=None, max_epochs=4)) == 12
    path = Path("lightning_logs/version_0/checkpoints/last.ckpt").absolute()
    said = f"ckpt_path='last': training goes on from {path}; version_1, which is newer, holds no checkpoint.\n"
    assert said in capsys.readouterr().out
    fit(trainer(logger=None, max_epochs=5))
    shutil.rmtree("lightning_logs/version_1")
    fit(trainer(logger=None, max_epochs=6))
    assert f"training goes on from {path}.\n" in capsys.readouterr().out


# -- whatever it is called


class Pt(ModelCheckpoint):
    FILE_EXTENSION = ".pt"
    CHECKPOINT_NAME_LAST = "newest"


class Plain(ModelCheckpoint):
    FILE_EXTENSION = ""


class Below(ModelCheckpoint):
    CHECKPOINT_NAME_LAST = "rolling/{epoch}/newest"


class Named(ModelCheckpoint):
    def format_checkpoint_name(self, metrics: Any, *args: Any, **kwargs: Any) -> str:
        name = super().format_checkpoint_name(metrics, *args, **kwargs)
        return os.path.join(os.path.dirname(name), "runs", "mine", os.path.basename(name))


class Ended(ModelCheckpoint):
    def format_checkpoint_name(self, metrics: Any, filename: Any = None, ver: Any = None, prefix: Any = None) -> str:
        assert self.dirpath is not None
        return os.path.join(self.dirpath, f"{filename or 'at'}_{int(metrics['step'])}.bin")


NAMES: dict[str, Callable[[], ModelCheckpoint]] = {
    "an end of its own": lambda: Ended("kept", save_top_k=-1),
    "an end of its own, without a folder": lambda: Ended(save_top_k=-1),
    "a folder each": lambda: ModelCheckpoint("kept", "{epoch}/model", save_top_k=-1),
    "folders": lambda: ModelCheckpoint("kept", "a/{epoch}/b/{step}", save_top_k=-1),
    "an extension of its own": lambda: Pt("kept", save_last=True, save_top_k=0),
    "no extension": lambda: Plain("kept", save_top_k=-1),
    "the last in a folder": lambda: Below("kept", save_last=True, save_top_k=0),
    "names of its own": lambda: Named("kept", save_top_k=-1),
    "letters": lambda: ModelCheckpoint("kept", "x" * 230 + "{epoch}", save_top_k=-1),
    "brackets": lambda: ModelCheckpoint("kept[1]", "[{epoch}]*?", save_top_k=-1),
    "without a folder": lambda: ModelCheckpoint(None, "{epoch}/model", save_top_k=-1),
}


@pytest.mark.parametrize("names", NAMES)
def test_what_this_configuration_wrote_is_found(names: str) -> None:
    fit(trainer(NAMES[names](), crashes(9)))
    again = NAMES[names]()
    assert fit(trainer(again)) == 8
    assert not list(Path().rglob("*-v1*"))


LOGGERS: dict[str, Callable[[], Any]] = {
    "numbered": lambda: CSVLogger("logs"),
    "a sub_dir": lambda: TensorBoardLogger("logs", sub_dir="deep/er"),
    "a sub_dir of a version": lambda: TensorBoardLogger("logs", version="one", sub_dir="deep"),
    "no name": lambda: CSVLogger("logs", name=""),
}


@pytest.mark.parametrize("logger", LOGGERS)
def test_the_logger_s_folder_is_found(logger: str) -> None:
    fit(trainer(crashes(9), logger=LOGGERS[logger]()))
    run = trainer(logger=LOGGERS[logger]())
    assert fit(run) == 8
    assert len({path.parent for path in Path("logs").rglob("*.ckpt")}) == 1


def test_folders_of_some_callbacks_do_not_hide_those_of_others() -> None:
    def callbacks() -> list[Any]:
        return [ModelCheckpoint("given", every_n_epochs=2), ModelCheckpoint(save_last=True, every_n_epochs=1, monitor=None)]

    fit(trainer(*callbacks(), crashes(5)))
    assert fit(trainer(*callbacks())) == 4


@pytest.mark.parametrize("kind", ["dirpath", "logger", "root", "on exception"])
def test_relative_folders_are_fixed_at_construction(kind: str, own_folder: Path) -> None:
    """A program that changes its directory between building and training, or while it trains, writes and finds one place."""

    def run(*more: Any) -> leyden.Trainer:
        if kind == "dirpath":
            return trainer(ModelCheckpoint("kept", save_last=True), *more)
        if kind == "logger":
            return trainer(*more, logger=CSVLogger("logs", version=0))
        if kind == "root":
            return trainer(*more, default_root_dir="root")
        return trainer(OnExceptionCheckpoint("kept"), *more)

    os.mkdir("elsewhere")
    first = run(crashes(9), at_batch(6, lambda: os.chdir(own_folder / "elsewhere")))
    fit(first)
    os.chdir(own_folder)
    assert not os.listdir("elsewhere")
    again = run()
    os.chdir("elsewhere")
    fit(again)
    assert again.ckpt_path is not None
    assert own_folder in Path(again.ckpt_path).parents
    assert not os.listdir(".")


# -- whatever clocks say


@pytest.mark.parametrize("seed", range(6))
def test_times_of_files_mean_nothing(seed: int) -> None:
    shuffled = random.Random(seed)

    def writer() -> ModelCheckpoint:
        return ModelCheckpoint("kept", save_last=bool(seed % 2), every_n_train_steps=1, save_top_k=-1)

    fit(trainer(writer(), crashes(9)))
    shutil.copytree("kept", "copied", copy_function=shutil.copyfile)
    for path in Path("kept").iterdir():
        os.utime(path, ns=(0, shuffled.randrange(2**60)))
    assert fit(trainer(writer())) == 9
    assert len(list(Path("kept").glob("*step*"))) == 12
    assert not list(Path("kept").glob("*-v1*"))


def test_a_clock_that_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two saves, and between two lives of the run."""
    clock = iter(range(2**60, 0, -(10**12)))
    monkeypatch.setattr("time.time_ns", lambda: next(clock))

    def writer() -> ModelCheckpoint:
        return ModelCheckpoint("kept", every_n_train_steps=1, save_top_k=-1)

    assert fit(trainer(writer(), crashes(3))) == 0
    assert fit(trainer(writer(), crashes(6))) == 3
    assert fit(trainer(writer(), crashes(9))) == 6


def test_the_newest_run_in_a_folder_counts_not_the_furthest() -> None:
    fit(trainer(ModelCheckpoint("kept", "first-{step}", save_top_k=-1)))
    with pytest.warns(PossibleUserWarning, match="is not empty"):
        fit(trainer(ModelCheckpoint("kept", "second-{step}", save_top_k=-1), crashes(5)), None)
    assert fit(trainer(ModelCheckpoint("kept", save_top_k=-1))) == 4


def test_a_file_that_vanishes_while_it_is_looked_for() -> None:
    class Vanishing(TorchCheckpointIO):
        def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> Any:
            if path.endswith("step=8.ckpt"):
                os.remove(path)
            return super().load_checkpoint(path, *args, **kwargs)

    fit(trainer(ModelCheckpoint("kept", "{step}", save_top_k=-1), crashes(9)))
    assert fit(trainer(ModelCheckpoint("kept", "{step}", save_top_k=-1), plugins=[Vanishing()])) == 4


def test_links_in_circles_are_not_followed() -> None:
    fit(trainer(ModelCheckpoint("kept", "a/b/c/d/{step}", save_top_k=-1), crashes(9)))
    os.symlink("..", "kept/a/up")
    os.symlink("self", "kept/self")
    os.symlink("self.ckpt", "kept/self.ckpt")
    assert fit(trainer(ModelCheckpoint("kept", "a/b/c/d/{step}", save_top_k=-1))) == 8


# -- two at once


JOB = """
import sys
import kit, leyden
from leyden.loggers import CSVLogger
from leyden.callbacks import ModelCheckpoint

def wait(*_):
    print("training", flush=True)
    sys.stdin.readline()

options = {"version": {"logger": CSVLogger("logs", version=0)}, "dirpath": {"callbacks": [ModelCheckpoint("kept")]},
           "root": {"default_root_dir": "root"}}[sys.argv[1]]
given = {**kit.QUIET, "enable_checkpointing": None, "max_epochs": 1, **options}
given["callbacks"] = [*given.get("callbacks", []), kit.at_batch(0, wait)]
leyden.Trainer(**given).fit(kit.Tiny(), kit.ones(4), ckpt_path=None if sys.argv[2] == "None" else sys.argv[2])
"""
OURS: dict[str, Callable[[], dict[str, Any]]] = {
    "version": lambda: {"logger": CSVLogger("logs", version=0)},
    "dirpath": lambda: {"callbacks": [ModelCheckpoint("kept")]},
    "root": lambda: {"default_root_dir": "root"},
}


@pytest.fixture
def job() -> Iterator[Callable[[str, Any], Any]]:
    """Starts the job, which waits in its first batch, before there is any checkpoint."""
    started: list[Any] = []

    def start(kind: str, ckpt_path: Any) -> Any:
        search = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [sys.executable, "-c", JOB, kind, str(ckpt_path)], env={**os.environ, "PYTHONPATH": search}, **pipes
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().startswith(("training", "ckpt_path"))
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="no locks on folders there")
@pytest.mark.parametrize(("kind", "ckpt_path"), [("version", None), ("dirpath", "last"), ("root", None)])
def test_the_second_of_two_is_refused_by_name(kind: str, ckpt_path: Any, job: Any) -> None:
    running = job(kind, ckpt_path)
    folder = {"version": "logs/lightning_logs/version_0", "dirpath": "kept", "root": "root"}[kind]
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"another run is training with its files in .*{folder}.* same ones"):
            fit(trainer(**OURS[kind]()), "last")
    assert not list(Path().rglob("*.abandoned"))
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert fit(trainer(**OURS[kind]()), ckpt_path) == 0


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_a_version_that_was_read_before_the_fit_and_is_held_by_then_gives_way(kind: Any) -> None:
    run = trainer(logger=kind("logs"), max_epochs=1)
    told = run.log_dir
    assert told is not None
    held = hold_folder(told)
    try:
        with pytest.warns(LeydenWarning, match=r"version_0 was free when .* this one writes to logs/lightning_logs/version_1\."):
            fit(run)
    finally:
        let_go(held or 0)
    assert run.log_dir == told.replace("version_0", "version_1")
    assert run.checkpoint_callback is not None
    assert "version_1" in run.checkpoint_callback.best_model_path
    assert fit(trainer(logger=kind("logs")), "last") == 4


def test_two_that_read_one_version_do_not_write_one_table() -> None:
    first, second = (trainer(logger=CSVLogger("logs"), max_epochs=1) for _ in range(2))
    assert first.log_dir == second.log_dir
    first.loggers[0].log_metrics({"early": 1.0})
    fit(first, None)
    with pytest.warns(LeydenWarning, match="Another run has taken it"):
        fit(second, None)
    assert second.log_dir != first.log_dir


def test_one_after_another_and_one_inside_another() -> None:
    inner: list[int] = []
    nested = Recorder(on_train_start=lambda *_: inner.append(fit(trainer(max_epochs=1), None)))
    for _ in range(2):
        assert fit(trainer(nested, max_epochs=1), None) == 0
    assert inner == [0, 0]


def test_nothing_is_left_of_a_hold() -> None:
    """A folder that was made for it, and in which nothing was written, goes with it; a crash changes nothing."""
    with pytest.raises(Crash):
        trainer(crashes(0), default_root_dir="a/b").fit(kit.Tiny(), kit.ones(1))
    assert os.listdir() == []
    for _ in range(3):
        before = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else set()
        fit(trainer(max_epochs=1), None)
        assert not before or len(set(os.listdir("/proc/self/fd"))) <= len(before)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EBADF, errno.ENOLCK, errno.EACCES])
def test_a_folder_that_cannot_be_held_is_passed_over(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, *args: Any, **kwargs: Any) -> int:
        if str(path).endswith("checkpoints"):
            raise OSError(number, os.strerror(number))
        return real(path, *args, **kwargs)

    monkeypatch.setattr("leyden.checkpoint.durable.os.open", refuse)
    monkeypatch.setattr("leyden.checkpoint.durable.Disk.sync_folder", lambda *_: None)
    assert fit(trainer(max_epochs=1)) == 0
