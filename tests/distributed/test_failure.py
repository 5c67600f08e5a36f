"""One of several processes fails, leaves or hangs: all end in seconds, and who it was and why stands first."""

from __future__ import annotations

import dis
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from real_processes import outcomes_together, together
from torch import nn

from leyden.distributed import by_itself, hang, last_words, watch
from leyden.distributed.aborts import Abort
from leyden.distributed.hang import Standing, describe, report
from leyden.distributed.last_words import LastWords, of_error, of_exit
from leyden.distributed.vigilance import Vigilance
from leyden.errors import CheckpointWriteFailed, InvalidOption, InvalidType, ModulesDiffer, ProcessFailed, TrainingTerminated
from leyden.testing import BoringModel, random_batches


class Faulty(BoringModel):
    """What process 1 does in batch 2 is up to ``fault``."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2 and self.trainer.global_rank == 1:
            self.fail()
        elif batch_idx == 2 and self.fault in ("skips", "brings more"):
            dist.all_reduce(torch.zeros(3))
        elif batch_idx == 2 and self.fault == "interrupts everywhere":
            raise KeyboardInterrupt
        return super().training_step(batch, batch_idx)

    def fail(self) -> None:
        if self.fault == "raises":
            raise LookupError("no such thing")
        if self.fault == "exits":
            sys.exit(0)
        if self.fault.startswith("interrupts"):
            raise KeyboardInterrupt
        if self.fault == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        while self.fault == "loops":
            pass
        if self.fault == "waits elsewhere":
            dist.barrier()
        if self.fault == "brings more":
            dist.all_reduce(torch.zeros(7))
        if self.fault == "saves":
            self.trainer.save_checkpoint("alone.ckpt")

    def on_train_end(self) -> None:
        if self.fault == "raises at the end" and self.trainer.global_rank == 1:
            raise LookupError("too late")
        if self.fault == "skips at the end" and self.trainer.global_rank == 0:
            dist.all_reduce(torch.zeros(3))


def faulty(fault: str, folder: str, hang_timeout: float) -> tuple[str, str, int | None, int]:
    """What fit raised: the kind, the text, whose fault it was and the exit code."""
    both = os.open(os.path.join(folder, "stderr"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(both, 2)
    watch.CROSSED = 0.5
    if fault == "interrupts":
        watch.GRACE = 0.5  # how long the others are waited for
    try:
        kit.trainer(devices=2, hang_timeout=hang_timeout).fit(Faulty(fault), random_batches(8), random_batches(2))
    except BaseException as error:
        return type(error).__name__, str(error), getattr(error, "rank", None), getattr(error, "code", 1)
    return "", "", None, 0


def ended(fault: str, folder: Path, hang_timeout: float = 100.0) -> tuple[list[Any], str]:
    """What came of each process, and what stood on standard error."""
    began = time.monotonic()
    outcomes = outcomes_together(2, faulty, fault, str(folder), hang_timeout)
    assert time.monotonic() - began < 45
    return outcomes, (folder / "stderr").read_text()


@pytest.mark.parametrize(
    ("fault", "place", "kind", "text"),
    [
        ("raises", "train, epoch 0, step 2, batch 2, in training_step", "LookupError", "no such thing"),
        ("raises at the end", "in on_train_end", "LookupError", "too late"),
        ("exits", "in training_step", "SystemExit", "sys.exit(0) was called"),
        ("interrupts", "in training_step", "KeyboardInterrupt", "failed (train, epoch 0, step 2, batch 2, in training_step): "),
    ],
)
def test_the_others_name_who_failed_where_and_why(fault: str, place: str, kind: str, text: str, tmp_path: Path) -> None:
    (first, failed), written = ended(fault, tmp_path)
    assert failed[0] == kind
    assert (first[0], first[2]) == ("ProcessFailed", 1)
    assert place in first[1]
    assert text in first[1]
    assert "in fail" in first[1] or "in on_train_end" in first[1], "its traceback"
    head = written.strip().splitlines()[0]
    assert head.startswith("process 1 of 2 ")
    assert place in head
    assert written.count("Traceback") == 1, "no echo beside it"


def test_code_that_raises_keyboard_interrupt_on_all_processes_ends_training(tmp_path: Path) -> None:
    outcomes, written = ended("interrupts everywhere", tmp_path)
    assert outcomes == [("", "", None, 0)] * 2
    assert written == ""


def test_a_process_that_was_killed_is_named_by_its_silence(tmp_path: Path) -> None:
    (first, killed), _ = ended("is killed", tmp_path)
    assert killed == -signal.SIGKILL
    assert first[0] == "ProcessFailed"
    assert "left no word (killed, perhaps for lack of memory): process 1, last heard of at" in first[1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("loops", "Process 1 waits in no exchange, and the others wait for it."),
        ("waits elsewhere", "process 0 in backward, where gradients are exchanged, process 1 in barrier"),
    ],
)
def test_a_hang_shows_where_each_process_stands(fault: str, reason: str, tmp_path: Path) -> None:
    outcomes, written = ended(fault, tmp_path, hang_timeout=2.0)
    assert outcomes == [1, 1]
    head = written.strip().splitlines()[0]
    assert "nothing moved for 2 s" in head
    assert reason in head
    for rank in (0, 1):
        assert f"process {rank}: train, epoch 0, step 2, batch 2" in written
    assert "in training_step; waits in" in written
    assert written.count("last batch: float32[") == 2
    assert "in fail" in written, "the stack of who hangs"
    if fault == "loops":
        assert written.index("process 1: train") < written.index("process 0: train"), "the suspect first"


@pytest.mark.parametrize(
    ("fault", "place", "first", "second"),
    [
        ("skips", "train, epoch 0, step 2, batch 2", "all_reduce of float32[3], called in training_step", "backward, where"),
        (
            "brings more",
            "in training_step",
            "all_reduce of float32[3], called in training_step",
            "all_reduce of float32[7], called in",
        ),
        ("skips at the end", "epoch 1", "all_reduce of float32[3], called in on_train_end", "all_reduce of the run's own"),
    ],
)
def test_an_exchange_of_the_users_that_meets_another_is_shown_beside_it(
    fault: str, place: str, first: str, second: str, tmp_path: Path
) -> None:
    outcomes, written = ended(fault, tmp_path)
    assert outcomes == [1, 1], "PyTorch would abort one of them"
    head = written[written.index("process ") :].splitlines()[0]
    assert head.startswith(f"process {0 if fault == 'brings more' else 1} of 2 hangs")
    assert place in head
    assert "an exchange got more than was expected there. The processes wait in different exchanges: process 0 in" in head
    assert f"process 0 in {first}" in head
    assert f"process 1 in {second}" in head
    assert "Fatal Python error" not in written


class Stopping(BoringModel):
    """In batch 2 process 1 stops the first one, or both for some seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            pids: list[Any] = [None, None]
            dist.all_gather_object(pids, os.getpid())
            if self.trainer.global_rank == 1 and self.seconds:
                time.sleep(1.2 * watch.PERIOD)  # the watch has seen that it stands
                subprocess.Popen(["sh", "-c", f"sleep {self.seconds}; kill -CONT {pids[0]} {pids[1]}"])
                os.kill(pids[0], signal.SIGSTOP)
                os.kill(pids[1], signal.SIGSTOP)
                time.sleep(1.2 * watch.PERIOD)  # the watch looks
            elif self.trainer.global_rank == 1:
                self.trainer.strategy.processes.watch.before_exit = lambda: os.kill(pids[0], signal.SIGCONT)
                os.kill(pids[0], signal.SIGSTOP)
        return super().training_step(batch, batch_idx)


def stopping(folder: str, seconds: float, hang_timeout: float) -> str:
    os.dup2(os.open(os.path.join(folder, "stderr"), os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    watch.GRACE = watch.WORDS_TAKE = 0.5
    kit.trainer(devices=2, hang_timeout=hang_timeout).fit(Stopping(seconds), random_batches(8))
    return "trained"


def test_a_first_process_that_is_stopped_with_its_store_is_named(tmp_path: Path) -> None:
    _, other = outcomes_together(2, stopping, str(tmp_path), 0.0, 1.0)
    assert other == 1
    written = (tmp_path / "stderr").read_text()
    assert written.startswith("\nprocess 0 of 2 hangs: the store of this run, which it keeps, has not answered process 1 for ")
    assert "\nprocess 1: train, epoch 0, step " in written, written
    assert "Timeout (" not in written, "the interpreter's own way out"


def test_the_time_for_which_all_processes_are_stopped_is_no_standstill(tmp_path: Path) -> None:
    assert outcomes_together(2, stopping, str(tmp_path), 3.0, 2.0) == ["trained", "trained"]
    assert (tmp_path / "stderr").read_text() == ""


def test_an_abort_that_nobody_takes_over_goes_its_way() -> None:
    ended = []
    abort = Abort(0.0)
    abort._before = lambda: ended.append(threading.current_thread().name)
    abort._handler()
    assert ended == ["MainThread"]
    assert not abort.begun.is_set(), "it is no exchange's, which has a thread of its own"
    thread = threading.Thread(target=abort._handler, name="of gloo")
    thread.start()
    thread.join()
    assert abort.begun.is_set()
    assert len(ended) == 2


def test_what_can_never_end_is_not_waited_for(tmp_path: Path) -> None:
    outcomes, written = ended("saves", tmp_path)
    assert outcomes == [1, 1]
    head = written.strip().splitlines()[0]
    assert head.startswith("process 1 of 2 hangs")
    assert "The processes wait in different exchanges" in head
    assert head.endswith("A checkpoint is saved by process 1 alone: trainer.save_checkpoint is to be called by every process.")


def test_how_long_one_has_waited_in_an_exchange() -> None:
    waiting = watch.Waiting()
    began = waiting.since
    assert waiting.look(("", 0), began + 1) == 0
    assert waiting.look(("barrier", 3), began + 2) == 0
    waiting.busy += 1  # as if nothing had been done since
    assert waiting.look(("barrier", 3), began + 4) == 2
    assert waiting.look(("barrier", 4), began + 5) == 0
    waiting.busy -= 9
    assert waiting.look(("barrier", 4), began + 6) == 0, "it is at work"
    assert hang.crossed([("barrier", 3), ("all_reduce", 3)])
    assert hang.crossed([("barrier", 3), ("barrier", 4)])
    assert not hang.crossed([("barrier", 3), ("barrier", 3)])
    assert not hang.crossed([("barrier", 3), ("", 0)])


def saved_by_the_first(folder: str) -> dict[str, bool]:
    by_itself.LONG = 0.1
    run = kit.trainer(devices=2)
    run.fit(BoringModel(), random_batches(4), random_batches(2))
    if run.is_global_zero:
        run.save_checkpoint(f"{folder}/alone.ckpt")
    run.strategy.barrier()
    run.save_checkpoint(f"{folder}/all {run.global_rank}.ckpt")
    found = {"written when all go on": os.path.exists(f"{folder}/all 0.ckpt")}
    with pytest.raises(CheckpointWriteFailed):
        run.save_checkpoint(f"{folder}/all 0.ckpt/in a file.ckpt")
    alone, both = (torch.load(f"{folder}/{name}.ckpt", weights_only=True) for name in ("alone", "all 0"))
    for checkpoint in (alone, both):
        checkpoint["leyden"].pop("saved")
    found["the same"] = kit.same(alone, both) and len(alone["leyden"]["processes"]) == 2
    again = kit.trainer(devices=2, max_epochs=2)
    again.fit(BoringModel(), random_batches(4), random_batches(2), ckpt_path=f"{folder}/alone.ckpt")
    return {**found, "goes on": again.global_step == 4}


def test_after_training_the_first_process_saves_alone(tmp_path: Path) -> None:
    for found in together(2, saved_by_the_first, str(tmp_path)):
        assert all(found.values()), found


def saved_in_shards_by(rank: int) -> str:
    by_itself.LONG = 0.1
    run = kit.trainer(devices=2, strategy="fsdp", hang_timeout=0.5)
    run.fit(BoringModel(), random_batches(4))
    if run.global_rank == rank:
        with pytest.raises(ProcessFailed) as caught:
            run.save_checkpoint("alone.ckpt")
        return str(caught.value)
    return ""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_save_after_training_that_the_others_do_not_call(rank: int) -> None:
    said = together(2, saved_in_shards_by, rank)[rank]
    assert said.startswith(f"trainer.save_checkpoint was called on process {rank}, and ")


class Unlike(BoringModel):
    def __init__(self, difference: str) -> None:
        super().__init__()
        if os.environ["RANK"] == "1":
            if difference == "shape":
                self.layer = nn.Linear(32, 3)
            elif difference == "name":
                self.more = nn.Linear(1, 1)
            elif difference == "frozen":
                self.layer.bias.requires_grad_(False)
            elif difference == "type":
                self.layer.double()


DIFFERENCES = {
    "shape": r"layer.weight is \[2, 32\] torch.float32 on process 0, and \[3, 32\] torch.float32 on 1",
    "name": "more.weight is on process 1, and not on 0",
    "frozen": r"layer.bias is \[2\] torch.float32 on process 0, and \[2\] torch.float32, frozen on 1",
    "type": r"torch.float32 on process 0, and \[2, 32\] torch.float64 on 1",
}


def unlike(differences: list[str], strategy: str) -> list[str]:
    found = []
    for difference in differences:
        try:
            kit.trainer(devices=2, strategy=strategy).fit(Unlike(difference), random_batches(4))
        except ModulesDiffer as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_modules_that_differ_are_one_error_on_all_processes_before_training(strategy: str) -> None:
    first, second = together(2, unlike, list(DIFFERENCES), strategy)
    assert first == second
    for text, expected in zip(first, DIFFERENCES.values(), strict=True):
        assert re.search(expected, text), text
        assert "Build it from the same arguments everywhere" in text


# -- what is said


def awaited() -> list[str]:
    """What another thread sees of the main one while that waits for an exchange which the other process has not begun."""
    kit.trainer(devices=2, strategy="ddp").strategy.processes.launched(lambda: None)()
    seen: list[str] = []
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank():
        store.wait(["seen"])
        dist.all_reduce(torch.ones(3), async_op=True).wait()
        return seen

    def look() -> None:
        until = time.monotonic() + 10
        while not hang.glance()[1][0] and time.monotonic() < until:
            time.sleep(0.01)
        where = hang.stand(0, "", None, 0.0)
        seen.extend([hang.glance()[1][0], where.exchange, where.call])
        store.set("seen", "")

    looking = threading.Thread(target=look)
    work = dist.all_reduce(torch.ones(3), async_op=True)
    looking.start()
    work.wait(timedelta(seconds=20))
    looking.join()
    return seen


def test_an_exchange_that_is_waited_for_later_is_seen() -> None:
    glanced, stands, called = together(2, awaited)[0]
    assert glanced == stands == hang.AWAITED
    assert called.startswith(f"{hang.AWAITED}, called in awaited (test_failure.py:")


def test_to_look_whether_an_exchange_is_waited_for_reads_code_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    instructions = dis.get_instructions
    monkeypatch.setattr(dis, "get_instructions", lambda code: read.append(code.co_name) or instructions(code))
    hang.glance()
    assert read == []  # nothing here is called by that name
    begun, lock, seen = threading.Lock(), threading.Lock(), list[str]()

    class Work:
        wait = lock.acquire  # as what an exchange returns: no function of Python's

    def look() -> None:
        begun.acquire()
        while hang.glance()[1][0] != hang.AWAITED:
            pass
        read.clear()
        seen.extend(hang.glance()[1][0] for _ in range(3))
        lock.release()

    begun.acquire()
    lock.acquire()
    looking = threading.Thread(target=look)
    looking.start()
    begun.release()
    Work.wait(True, 20)
    looking.join()
    assert (seen, read) == ([hang.AWAITED] * 3, [])


def test_the_words_of_each_end() -> None:
    assert of_error(1, ValueError("x"), "epoch 0").line == "process 1 failed (epoch 0): ValueError: x"
    assert of_error(1, SystemExit(3), "").code == 3
    assert of_error(1, TrainingTerminated("SIGTERM arrived"), "").code == 143
    killed = of_exit(1, -signal.SIGKILL, "step 5")
    assert (killed.code, killed.line) == (
        137,
        "process 1 was ended (step 5): SIGKILL ended it (the system does so when memory runs out)",
    )
    assert of_exit(1, -signal.SIGTERM, "").code == 143
    assert of_exit(1, -signal.SIGABRT, "").code == 1
    assert "whose size differs" in of_exit(1, -signal.SIGABRT, "").reason
    assert of_exit(1, 0, "").line.startswith("process 1 has left: it ended with exit code 0")
    assert of_exit(1, 7, "").code == 7
    assert LastWords.read(killed.dumped()) == killed


def test_an_echo_is_told_from_an_error() -> None:
    assert last_words.is_echo(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1"))
    assert last_words.is_echo(ProcessFailed("x"))
    assert not last_words.is_echo(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not last_words.is_echo(ConnectionResetError("of the user's own download"))


def standing(rank: int, exchange: str, number: int, call: str = "") -> Standing:
    return Standing(rank, f"step {rank}", exchange, number, "none", "", 9.0, call)


@pytest.mark.parametrize(
    ("stands", "expected"),
    [
        ([standing(0, "barrier", 4)], "Process 1 does not answer"),
        ([standing(0, "barrier", 4), standing(1, "", 3)], "Process 1 waits in no exchange, and the others wait for it."),
        ([standing(0, "barrier", 3), standing(1, "barrier", 4)], "Process 0 has begun fewer exchanges than the others"),
        ([standing(0, "barrier", 4), standing(1, "all_reduce", 4)], "in different exchanges: process 0 in barrier, process 1 in"),
        ([standing(0, "barrier", 4), standing(1, "barrier", 4)], "The processes wait in the same exchange"),
        ([standing(0, "barrier", 4), standing(1, "barrier", 4, "barrier of the run's own")], "process 1 in barrier of the run's"),
        ([standing(0, "", 4), standing(1, "", 4)], "The processes are at work or wait for something else, in no exchange."),
    ],
)
def test_whose_fault_a_hang_seems(stands: list[Standing], expected: str) -> None:
    assert expected in report({each.rank: each for each in stands}, 2, 5.0)[1]


def test_who_does_as_few_do_is_named_first() -> None:
    calls = ["all_reduce of float32[3]", "all_reduce of float32[7]", "all_reduce of float32[3]"]
    stands = {rank: standing(rank, "all_reduce", 4, call) for rank, call in enumerate(calls)}
    assert report(stands, 3, 5.0)[0] == 1


def test_a_batch_in_words() -> None:
    batch = {"image": torch.zeros(2, 3), "labels": (torch.zeros(2, dtype=torch.int64), None, "x")}
    assert describe(batch) == "{image: float32[2, 3], labels: (int64[2], none, str)}"
    assert hang.describe([[[[torch.zeros(1)]]]]) == "(((list)))"


@pytest.mark.parametrize(
    ("given", "seconds"), [(30, 30.0), (0.5, 0.5), ("00:00:01:00", 60.0), ({"minutes": 2}, 120.0), (None, None)]
)
def test_hang_timeout_is_read_as_seconds_or_a_time(given: Any, seconds: float | None) -> None:
    assert Vigilance.read(given).seconds == seconds


def test_what_cannot_be_a_timeout_or_a_number_of_restarts() -> None:
    for given in (0, -1, "soon", True, [1]):
        with pytest.raises(InvalidOption, match="hang_timeout"):
            kit.trainer(hang_timeout=given)
    with pytest.raises(InvalidOption, match="max_restarts"):
        kit.trainer(max_restarts=-1)
    with pytest.raises(InvalidType, match="max_restarts"):
        kit.trainer(max_restarts="often")


_ASKS = """
import torch.distributed as dist
from leyden.distributed.asking import Asking
served = dist.TCPStore("localhost", 0, 1, True)
client = served.clone()
def ask():
    while not asking.ending.is_set():
        client.check(["never"])
asking = Asking(ask, "asks")
asking.start()
print("over")
"""


def test_the_interpreter_does_not_end_under_a_thread_that_asks_the_store() -> None:
    """It would come back from the store into an interpreter that is gone, and abort the process after its run."""
    ended = subprocess.run([sys.executable, "-c", _ASKS], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "over\n", "")
