"""Whole jobs of which a process fails, under every launcher: what is shown first, how they end, and how they go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import leyden

pytestmark = pytest.mark.distributed
JOB = Path(__file__).parents[1] / "failing_job.py"


def job(folder: Path, *words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *(launcher or ()), str(JOB), str(folder), *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(leyden.__file__).parents[1])}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=120)


def ended(folder: Path) -> Any:
    return json.loads((folder / "ended.json").read_text())


TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0")


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork", "ddp_spawn", "torchrun"])
def test_the_first_error_stands_first_and_ends_the_job(strategy: str, tmp_path: Path) -> None:
    words = ("--fault", "raises", *(() if strategy == "torchrun" else ("--strategy", strategy)))
    done = job(tmp_path, *words, launcher=TORCHRUN if strategy == "torchrun" else ())
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "rocess" in line and "failed" in line]
    assert said[0].startswith("process 1 of 2 failed (train, epoch 0, step 3, batch 7, in training_step): LookupError")
    head = done.stderr.index(said[0])
    assert "Traceback" not in done.stderr[:head]
    assert "Connection closed by peer" not in done.stderr[:head]
    assert "no such thing" in done.stderr[head:]
    if strategy == "ddp_fork":  # whose stack is below the own one
        assert "in <module>" not in done.stderr[head : done.stderr.index("LookupError: ", head + len(said[0]))]


@pytest.mark.parametrize(("fault", "code"), [("killed", 137), ("exits", 1), ("terminated", 143)])
def test_the_exit_code_says_what_ended_the_job(fault: str, code: int, tmp_path: Path) -> None:
    done = job(tmp_path, "--fault", fault)
    assert done.returncode == code, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("process ")]
    if fault == "killed":
        assert said[0].startswith("process 1 of 2 was ended (")
        assert "SIGKILL ended it" in said[0]
    if fault == "exits":
        assert said[0].startswith("process 1 of 2 has left (")
    if fault == "terminated":
        assert job(tmp_path, "--goes-on").returncode == 0
        assert job(tmp_path / "alone").returncode == 0
        assert ended(tmp_path) == ended(tmp_path / "alone")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="whether a process is gone is asked of Linux")
def test_of_a_first_process_that_is_gone_the_others_speak(tmp_path: Path) -> None:
    done = job(tmp_path, "--fault", "killed", "--rank", "0")
    assert done.returncode == -signal.SIGKILL
    said = next(line for line in done.stderr.splitlines() if line.startswith("process "))
    assert said.startswith("process 0 of 2 was ended: it left no word (killed")
    assert "process 1 was at train, epoch 0, step" in said


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_the_exit_code_is_that_of_a_signal_under_every_launcher(strategy: str, rank: int, tmp_path: Path) -> None:
    done = job(tmp_path, "--fault", "killed", "--strategy", strategy, "--rank", str(rank))
    assert done.returncode == 137, done.stderr
    said = [line for line in done.stderr.splitlines() if "rocess" in line]
    assert said[0] == f"process {rank} of 2 was ended: SIGKILL ended it (the system does so when memory runs out)"
    assert not any("SIGTERM" in line for line in done.stderr.splitlines()), "nobody was asked to end"


@pytest.mark.parametrize("fault", ["exits", "skipping"])
def test_a_forked_process_that_leaves_is_named(fault: str, tmp_path: Path) -> None:
    began = time.monotonic()
    done = job(tmp_path, "--fault", fault, "--strategy", "ddp_fork")
    assert time.monotonic() - began < 35, "whoever waits for it hears that it is gone"
    assert done.returncode == 1
    said = next(line for line in done.stderr.splitlines() if "rocess" in line)
    assert said == "process 1 of 2 has left: it ended with exit code 0 while the others were still at work"


@pytest.mark.parametrize(("target", "name"), [("one", "SIGTERM"), ("group", "SIGTERM"), ("group", "SIGINT")])
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_fork"])
def test_a_signal_to_whoever_was_started(strategy: str, target: str, name: str, tmp_path: Path) -> None:
    begun = subprocess.Popen(
        [sys.executable, str(JOB), str(tmp_path), "--strategy", strategy, "--fault", "waits", "--at", "7", "--rank", "0"],
        env={**os.environ, "PYTHONPATH": str(Path(leyden.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (tmp_path / "failed").exists() and time.monotonic() < until:
        time.sleep(0.02)
    (os.kill if target == "one" else os.killpg)(begun.pid, getattr(signal, name))
    (tmp_path / "heard").touch()
    said, _ = begun.communicate(timeout=60)
    assert begun.returncode == (143 if name == "SIGTERM" else 0), said
    assert "finishing this batch" in said
    (tmp_path / "ended.json").unlink(missing_ok=True)
    assert job(tmp_path, "--goes-on").returncode == 0
    assert job(tmp_path / "alone").returncode == 0
    assert ended(tmp_path) == ended(tmp_path / "alone")


@pytest.mark.parametrize("strategy", ["ddp", "ddp_fork", "torchrun"])
def test_what_is_started_again_goes_on_by_itself_to_the_same_bits(strategy: str, tmp_path: Path) -> None:
    assert job(tmp_path / "alone").returncode == 0
    if strategy == "torchrun":
        done = job(tmp_path, "--fault", "killed", launcher=(*TORCHRUN, "--max-restarts=1"))
    else:
        done = job(tmp_path, "--fault", "killed", "--restarts", "1", "--strategy", strategy)
    assert done.returncode == 0, done.stderr
    assert "Attempt 2 of this job" in done.stdout
    assert "training goes on from" in done.stdout
    assert ended(tmp_path) == ended(tmp_path / "alone")


def test_each_launcher_comes_to_the_same_bits(tmp_path: Path) -> None:
    strategies = ("ddp", "ddp_spawn", "ddp_fork")
    for strategy in strategies:
        done = job(tmp_path / strategy, "--strategy", strategy)
        assert done.returncode == 0, done.stderr
    assert len({json.dumps(ended(tmp_path / strategy)) for strategy in strategies}) == 1


def test_a_run_before_is_not_gone_on_from(tmp_path: Path) -> None:
    assert job(tmp_path).returncode == 0
    kept = ended(tmp_path)
    done = job(tmp_path, "--fault", "killed", "--at", "0", "--restarts", "1")
    assert done.returncode == 0, done.stderr
    assert "training goes on from" not in done.stdout, "nothing of this job was saved before it was killed"
    assert ended(tmp_path) == kept


def test_restarts_come_to_an_end(tmp_path: Path) -> None:
    (tmp_path / "failed").symlink_to(tmp_path / "nowhere" / "at all")  # so that the job fails in each attempt
    done = job(tmp_path, "--fault", "raises", "--restarts", "1", "--at", "3")
    assert done.returncode == 1
    assert done.stderr.count("The processes are started again") == 1
