"""Guarantee: kill a run anywhere and start it again with the same command: it ends with the same bits. `make soak`, in short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.checkpoint.durable import hold_folder, let_go
from leyden.errors import CheckpointError
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.testing import BoringModel

sys.path.insert(0, str(Path(__file__).parent))
from kill_job import TERMINATED, Job, Kill, Outcome, Runner, outcome, read_scalars, survive

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, and waits for processes as Linux can")

RUNS: dict[str, tuple[dict[str, Any], list[Kill]]] = {
    "before, in and after the first checkpoint": (
        {},
        [Kill("sanity check", 1), Kill("checkpoint write", 1), Kill("rename", 1), Kill("link done", 1), Kill("remove", 1)],
    ),
    "logs half written": ({}, [Kill("table write", 2), Kill("event write", 2), Kill("table write", 3)]),
    "in the middle of a large file": (
        {"padding": 8_000_000},
        [Kill("checkpoint write", 150), Kill("checkpoint write", 190), Kill("sync", 4)],
    ),
    "workers, written in the background": (
        {"workers": 2, "asynchronous": True},
        [Kill(seconds=0.25), Kill("validation step", 5), Kill("rename done", 5)],
    ),
    "a stream, checkpoints at the epoch's end": (
        {"data": "iterable", "rhythm": "epoch"},
        [Kill("call", 5000), Kill("epoch end", 1), Kill("backward done", 9)],
    ),
    "torchdata with workers": ({"data": "stateful", "workers": 2}, [Kill("training step", 9), Kill("train end", 1)]),
    "between two checkpoint callbacks": ({"writers": "two"}, [Kill("checkpoint write", 500), Kill("save", 2), Kill("save", 4)]),
    "asked to end": (
        {"validation_rows": True},
        [
            Kill("validation step", 2, number=signal.SIGTERM),
            Kill("batch end", 4, number=signal.SIGINT),
            Kill("validation step", 6, number=signal.SIGTERM),
            Kill("train end", 1, number=signal.SIGTERM),
        ],
    ),
    "state of all kinds": (
        {"kinds": "all"},
        [Kill("batch end", 5), Kill("validation step", 8), Kill("epoch end", 1), Kill("backward done", 7), Kill("save", 3)],
    ),
    "an average that is validated": (
        {"rewrites": "ema"},
        [
            Kill("validation step", 3),
            Kill("validation step", 5, number=signal.SIGTERM),
            Kill("epoch end", 1),
        ],
    ),
    "a mean of the last epochs, and a pass for batch norm": (
        {"rewrites": "swa", "rhythm": "epoch"},
        [
            Kill("training step", 20),
            Kill("training step", 24),  # in that pass
            Kill("batch end", 3, number=signal.SIGTERM),
            Kill("validation step", 2),
            Kill("train end", 1),
        ],
    ),
    "finetuned": (
        {"kinds": "finetuned"},
        [Kill("epoch start", 2), Kill("thawed", 1), Kill("validation step", 6), Kill("thawed", 1), Kill("batch end", 8)],
    ),
    "pruned on the way": (
        {"rewrites": "prune"},
        [Kill("training step", 20), Kill("epoch end", 2), Kill("train end", 1)],
    ),
    "folders with numbers": ({"folders": "numbered"}, [Kill("training step", 5), Kill("save", 1), Kill("teardown", 1)]),
}


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as started:
        yield started


def alone(runner: Runner, folder: Path, **settings: Any) -> Outcome:
    job = Job(str(folder / "alone"), **settings)
    assert runner.start(job) == 0, Path(job.folder, "output.txt").read_text()
    return outcome(job)


GPU = pytest.param(
    "gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
)


@pytest.mark.parametrize("accelerator", ["cpu", GPU])
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_with_the_same_bits(name: str, accelerator: str, runner: Runner, tmp_path: Path) -> None:
    settings, kills = RUNS[name]
    settings = {**settings, "accelerator": accelerator}
    expected = alone(runner, tmp_path, **settings)
    got = survive(runner, Job(str(tmp_path / "killed"), **settings), kills)
    assert got.kills == len(kills), f"some of {kills} never struck"
    assert expected.differences(got) == []
    best = len(expected.ended["kept"])
    assert sorted(name for name in expected.files["checkpoints 0"] if name != "last.ckpt") == expected.ended["kept"]
    assert best == 2


def test_in_an_interpreter_of_its_own(runner: Runner, tmp_path: Path) -> None:
    expected = alone(runner, tmp_path)
    got = survive(Runner(fresh=True), Job(str(tmp_path / "killed")), [Kill("checkpoint write", 700)])
    assert got.kills == 1
    assert expected.differences(got) == []


def test_a_finished_run_stays_as_it_is(runner: Runner, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "job"))
    assert runner.start(job) == 0
    before, times = outcome(job), modified(tmp_path)
    assert runner.start(job) == 0
    assert before.differences(outcome(job)) == []
    changed = {path for path, time in modified(tmp_path).items() if times.get(path) != time}
    assert changed == {"job/ended.json", "job/output.txt"}
    assert "is finished" in Path(job.folder, "output.txt").read_text()


def modified(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_sigterm_after_the_last_batch_still_ends_the_process(runner: Runner, tmp_path: Path) -> None:
    job = Job(str(tmp_path / "job"))
    assert runner.start(job, Kill("train end", 1, number=signal.SIGTERM)) == TERMINATED
    assert runner.start(job) == 0
    assert "is finished" in Path(job.folder, "output.txt").read_text()


def test_last_is_the_newest_of_all_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fit(epochs: int, ckpt_path: str | None) -> None:
        best = ModelCheckpoint(tmp_path / "best", monitor="worse")
        newest = ModelCheckpoint(tmp_path / "newest", save_top_k=0, save_last=True)
        trainer(tmp_path, epochs, callbacks=[best, newest]).fit(Worsening(), ckpt_path=ckpt_path)

    fit(2, None)
    assert os.listdir(tmp_path / "best") == ["epoch=0-step=2.ckpt"]
    capsys.readouterr()
    fit(3, "last")
    assert f"goes on from {tmp_path}/newest/last.ckpt" in capsys.readouterr().out


def test_last_passes_over_files_that_hold_weights_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fit(epochs: int, ckpt_path: str | None) -> int:
        whole = ModelCheckpoint(tmp_path, filename="whole", every_n_epochs=2, save_top_k=1)
        weights = ModelCheckpoint(tmp_path, filename="weights", save_weights_only=True)
        return trainer(tmp_path, epochs, callbacks=[whole, weights]).fit(BoringModel(), ckpt_path=ckpt_path).steps

    fit(3, None)
    capsys.readouterr()
    assert fit(4, "last") == 8
    assert f"goes on from {tmp_path}/whole.ckpt" in capsys.readouterr().out


def test_rows_of_an_attempt_without_a_checkpoint_are_set_aside(tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "csv", "run"), TensorBoardLogger(tmp_path, "events", "run")]
    for logger in loggers:
        logger.log_metrics({"old": 1.0}, 0)
        logger.finalize("failed")

    again = [CSVLogger(tmp_path, "csv", "run"), TensorBoardLogger(tmp_path, "events", "run")]
    trainer(tmp_path, 1, logger=again, log_every_n_steps=1).fit(Worsening(), ckpt_path="last")
    folder = tmp_path / "csv" / "run"
    assert "old" not in (folder / "metrics.csv").read_text()
    assert "old" in (folder / "metrics.csv.abandoned").read_text()
    assert {tag for tag, _, _ in read_scalars(str(tmp_path / "events" / "run"))} == {"worse", "epoch"}
    assert len([name for name in os.listdir(tmp_path / "events" / "run") if "abandoned" in name]) == 1


def test_rows_stay_where_nobody_asked_to_go_on(tmp_path: Path) -> None:
    first = CSVLogger(tmp_path, "csv", "run")
    first.log_metrics({"old": 1.0}, 0)
    first.finalize("success")
    trainer(tmp_path, 1, logger=CSVLogger(tmp_path, "csv", "run"), enable_checkpointing=False).fit(Worsening())
    assert "old" in (tmp_path / "csv" / "run" / "metrics.csv").read_text()
    assert sorted(os.listdir(tmp_path / "csv" / "run")) == ["hparams.yaml", "metrics.csv"]


@pytest.mark.filterwarnings("ignore:The checkpoint folder")
def test_leftovers_of_a_crash_are_removed_and_those_of_others_stay(tmp_path: Path) -> None:
    gone = 2**22 + 1  # no process has such a number
    for name in (f".last.ckpt.{gone}.leyden-tmp", ".mine", "notes.tmp"):
        (tmp_path / name).write_bytes(b"half")
    trainer(tmp_path, 1, callbacks=[ModelCheckpoint(tmp_path, filename="whole")]).fit(BoringModel(), ckpt_path="last")
    assert sorted(os.listdir(tmp_path)) == [".mine", "notes.tmp", "whole.ckpt"]


def test_two_runs_do_not_go_on_in_one_folder(tmp_path: Path) -> None:
    class Again(leyden.Callback):
        """Starts the same command while it runs."""

        def on_train_batch_end(self, *_: Any) -> None:
            if os.path.exists(tmp_path / "last.ckpt"):
                with pytest.raises(
                    CheckpointError,
                    match=f"another run is training with its files in {tmp_path}, and both would write the same ones. Wait",
                ):
                    fit()
                raise Interrupt

    class Interrupt(Exception):
        pass

    def fit(*callbacks: leyden.Callback) -> leyden.FitResult:
        writer = ModelCheckpoint(tmp_path, save_top_k=0, save_last=True)
        return trainer(tmp_path, 2, callbacks=[*callbacks, writer]).fit(BoringModel(), ckpt_path="last")

    with pytest.raises(Interrupt):
        fit(Again())
    assert fit().steps == 4  # the folder is free again


def test_a_hold_ends_with_the_process_and_not_with_its_workers(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError):
        hold_folder(tmp_path)
    holder.kill()
    holder.wait()
    held = hold_folder(tmp_path)  # its child lives on
    assert held is not None
    let_go(held)
    holder.stdin.close()  # and ends now
    assert holder.stdout.read() == "ended\n"
    holder.stdout.close()


HOLDER = """
import os, sys
from leyden.checkpoint.durable import hold_folder
hold_folder(sys.argv[1])
if os.fork() == 0:
    print("held", flush=True)
    sys.stdin.read()
    print("ended", flush=True)
    os._exit(0)
os.wait()
"""


class Worsening(BoringModel):
    """Logs a metric that grows."""

    def on_train_epoch_end(self) -> None:
        self.log("worse", float(self.current_epoch))


def trainer(folder: Path, epochs: int, **options: Any) -> leyden.Trainer:
    quiet = {"enable_checkpointing": None, "limit_train_batches": 2, "limit_val_batches": 0}
    return kit.trainer(max_epochs=epochs, default_root_dir=folder, **{**quiet, **options})
