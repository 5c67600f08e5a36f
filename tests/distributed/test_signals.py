"""Signals to several processes: all end alike, also where one of them waits for another that never comes."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import kit
import pytest
from real_processes import outcomes_together

from leyden.checkpoint import durable
from leyden.distributed import hang, watch
from leyden.testing import BoringModel, random_batches


def seen(place: Path, text: str) -> None:
    """Wait until ``text`` stands in the file ``place``."""
    until = time.monotonic() + 20
    while not (place.exists() and text in place.read_text()) and time.monotonic() < until:
        time.sleep(0.02)


def ended(pid: int) -> None:
    """Wait until process ``pid`` has ended."""
    until = time.monotonic() + 20
    with suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.kill(pid, 0)
            time.sleep(0.02)


class Signalled(BoringModel):
    """In batch 2 process 1 sends what ``case`` says."""

    def __init__(self, case: str, folder: Path) -> None:
        super().__init__()
        self.case, self.folder = case, folder

    def setup(self, stage: str) -> None:
        Path(self.folder, f"pid {self.trainer.global_rank}").write_text(str(os.getpid()))

    def send(self, name: str, rank: int) -> None:
        os.kill(int(Path(self.folder, f"pid {rank}").read_text()), getattr(signal, name))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2 and self.trainer.global_rank == 1:
            if self.case.startswith("twice"):
                name = self.case.split()[1]
                time.sleep(0.2)  # the first one waits for the gradients by now
                self.send(name, 0)
                seen(self.folder / "output 0", "finishing this batch")
                self.send(name, 0)
                ended(int(Path(self.folder, "pid 0").read_text()))
                os._exit(7)
            if self.case == "never comes":
                time.sleep(0.2)
                self.send("SIGTERM", 0)
                time.sleep(100)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2 and self.trainer.global_rank == 1 and self.case == "validate":
            self.send("SIGTERM", 1)
        if batch_idx > 2 and self.case == "validate":
            time.sleep(0.1)
        return super().validation_step(batch, batch_idx)

    def on_train_end(self) -> None:
        if self.trainer.global_rank == 1 and self.case.startswith("late"):
            self.send(self.case.split()[1], 1)


class Skipping(Signalled):
    """Process 0 waits until the other one has heard that it skips batch 2, and that one is killed in it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2 and self.trainer.global_rank == 0:
            return None
        if batch_idx == 2:
            time.sleep(0.2)
            self.send("SIGTERM", 0)
            self.send("SIGKILL", 1)
        return super().training_step(batch, batch_idx)


def signalled(case: str, folder: str) -> tuple[str, str, Any]:
    output = os.open(os.path.join(folder, f"output {os.environ['RANK']}"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if case == "is gone":
        watch.GRACE = 1.0
    else:
        watch.ASKED_TO_END = 1.0
    model = (Skipping if case == "is gone" else Signalled)(case, Path(folder))
    trainer = kit.trainer(devices=2)
    try:
        if case == "validate":
            trainer.validate(model, random_batches(100))
        else:
            trainer.fit(model, random_batches(8), random_batches(2))
    except BaseException as error:
        return type(error).__name__, str(error), getattr(error, "code", 1)
    return "", "", 0


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_second_signal_ends_a_process_that_waits_for_another(name: str, code: int, tmp_path: Path) -> None:
    began = time.monotonic()
    first, second = outcomes_together(2, signalled, f"twice {name}", str(tmp_path))
    assert (first, second) == (code, 7)
    assert "finishing this batch" in (tmp_path / "output 0").read_text(), "the first one is answered at once"
    assert time.monotonic() - began < 30


def test_where_nothing_can_move_any_more_a_signal_ends_all_and_says_who_is_waited_for(tmp_path: Path) -> None:
    assert outcomes_together(2, signalled, "never comes", str(tmp_path)) == [143, 143]
    said = (tmp_path / "output 0").read_text()
    assert "process 1 of 2 hangs (train, epoch 0, step 2, batch 2, in training_step): a signal has asked process 0 to end" in said
    assert "Process 1 waits in no exchange, and the others wait for it. So nothing can be saved." in said
    assert "in training_step" in said


def test_a_signal_ends_a_process_at_once_that_waits_for_one_that_is_gone(tmp_path: Path) -> None:
    began = time.monotonic()
    (kind, said, code), killed = outcomes_together(2, signalled, "is gone", str(tmp_path))
    assert (kind, code, killed) == ("ProcessFailed", 143, -signal.SIGKILL)
    assert time.monotonic() - began < watch.ASKED_TO_END - 5
    assert "a signal has asked process 0 to end" in said
    assert "Process 1 does not answer" in said


def test_an_evaluation_ends_on_all_processes(tmp_path: Path) -> None:
    (first, _, code), (second, text, other) = outcomes_together(2, signalled, "validate", str(tmp_path))
    assert (first, second, code, other) == ("TrainingTerminated", "TrainingTerminated", 143, 143)
    assert text.startswith("SIGTERM arrived")
    assert "a signal to another process arrived" in (tmp_path / "output 0").read_text()


@pytest.mark.parametrize(("name", "kind"), [("SIGTERM", "TrainingTerminated"), ("SIGINT", "KeyboardInterrupt")])
def test_one_that_comes_after_the_last_batch_is_heard_by_all(name: str, kind: str, tmp_path: Path) -> None:
    outcomes = outcomes_together(2, signalled, f"late {name}", str(tmp_path))
    assert [found for found, *_ in outcomes] == [kind, kind], outcomes


def test_a_process_that_saves_is_waited_for() -> None:
    assert not hang.saves()
    code = compile("found.append(saves())", durable.__file__, "exec")
    found: list[bool] = []
    exec(code, {"found": found, "saves": hang.saves})
    assert found == [True]
