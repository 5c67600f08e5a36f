"""Processes that somebody has started come together, or it is said who does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import kit
import pytest
from real_processes import outcomes_together
from warm_python import python

from leyden.distributed import meeting
from leyden.testing import BoringModel, random_batches


def comes(case: str, folder: str) -> tuple[str, str]:
    """What fit raised."""
    os.dup2(os.open(os.path.join(folder, f"said by {os.environ['RANK']}"), os.O_WRONLY | os.O_CREAT), 2)
    meeting.LONG = 0.1
    if case.startswith("without"):
        meeting.LEAST = 0.3
        if case.endswith(os.environ["RANK"]):
            return "", ""
    if case == "another count" and os.environ["RANK"] == "1":
        os.environ["WORLD_SIZE"] = "4"
    if case == "one number twice" and os.environ["RANK"] == "2":
        os.environ.update(RANK="1", LOCAL_RANK="1")
    try:
        kit.trainer(devices=int(os.environ["WORLD_SIZE"]), hang_timeout=0.1).fit(BoringModel(), random_batches(2))
    except Exception as error:
        return type(error).__name__, str(error)
    return "began", ""


def test_one_that_does_not_come_is_named_and_not_waited_for(tmp_path: Path) -> None:
    (kind, text), _ = outcomes_together(2, comes, "without 1", str(tmp_path))
    assert kind == "ProcessFailed"
    assert text.startswith("Of 2 processes process 1 did not come in 0.3 s")
    assert (tmp_path / "said by 0").read_text() == "process 0 of 2 waits for process 1 to come to the same verb.\n"


def test_the_first_one_does_not_come(tmp_path: Path) -> None:
    _, (kind, text) = outcomes_together(2, comes, "without 0", str(tmp_path))
    assert kind == "ProcessFailed"
    assert text.startswith("Process 0 has not answered at 127.0.0.1:")
    assert "process 1 of 2 waits for process 0, which does not answer at 127.0.0.1:" in (tmp_path / "said by 1").read_text()


@pytest.mark.parametrize(
    ("case", "world", "text"),
    [
        ("another count", 2, "was told that there are"),
        ("one number twice", 3, "Two processes were told that they are number 1 of 3."),
    ],
)
def test_numbers_that_do_not_fit_together_are_named(case: str, world: int, text: str, tmp_path: Path) -> None:
    found: list[Any] = outcomes_together(world, comes, case, str(tmp_path))
    refused = [said for kind, said in found if kind == "ConflictingOptions"]
    assert refused, found
    assert all(text in said for said in refused)
    assert all(kind in ("ConflictingOptions", "ProcessFailed") for kind, _ in found), found


_ANSWERED_LATE = """
import os, socket, sys, threading, time
listener = socket.create_server(("127.0.0.1", 0))
os.environ.update(RANK="1", LOCAL_RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(listener.getsockname()[1]))
accepted = []
threading.Thread(target=lambda: accepted.append(listener.accept()[0]), daemon=True).start()
class Answers:
    def __del__(self, sleep=time.sleep):
        accepted[0].send(bytes(8))  # of which the store's client makes an error
        sleep(0.3)
sys.answers_when_modules_go = Answers()
from leyden.distributed import meeting
from leyden.testing import BoringModel, random_batches
import leyden
meeting.LEAST = 0.1
leyden.Trainer(accelerator="cpu", devices=2, logger=False, hang_timeout=0.1).fit(BoringModel(), random_batches(2))
"""


def test_the_process_that_has_given_up_ends_as_it_should_when_another_program_answers_at_last() -> None:
    """Out of C++ the answer comes to an interpreter that is ending."""
    ended = python("-c", _ANSWERED_LATE)
    assert ended.returncode == 1, ended.stderr
    assert "terminate called" not in ended.stderr
    assert "in 0.1 s: it has failed before, or cannot be reached from process 1, or another program listens" in ended.stderr
