"""What the benchmarks of a step share: the job, the clock inside a run, runs in processes of their own, the table of medians.

The job is an MLP 64-128-10 and batches of 64 out of an in-memory `DataLoader`, on one thread of the CPU. Every run has a
process and a terminal of its own, and the runs alternate. The clock starts when step `--warm` enters the user's step and stops
when step `--warm + --steps` does, so set-up and teardown are left out, and all that happens in between is counted. Both ends
are taken by the same line of the job.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

BATCH, FEATURES, HIDDEN, CLASSES = 64, 64, 128, 10
BATCHES_PER_EPOCH = 3400
COUNTED = 500
"""Steps over which calls are counted: inside one epoch, a multiple of the interval at which loggers write."""
SWITCHED_OFF: dict[str, Any] = dict.fromkeys(
    ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False
)
"""What "everything off" says to a Trainer."""


# Inside a run


class Clock:
    """Reads what is asked for when the user's step is entered, and says when the run is over."""

    def __init__(self, task: argparse.Namespace) -> None:
        self.framework: str = task.run.partition("-")[0]
        self.steps: int = task.steps
        self.first: int = task.warm
        self.last: int = self.first + self.steps
        self.count = -1
        self.seen: dict[str, Any] = {}
        self.tick: Callable[[], bool] = {"time": self._time, "calls": self._calls, "memory": self._memory}[task.read]
        """Count a step; true from the last one on."""

    def _time(self) -> bool:
        self.count += 1
        if self.count == self.first:
            self.begin = time.perf_counter()
        elif self.count == self.last:
            self.seen["us"] = (time.perf_counter() - self.begin) / self.steps * 1e6
        return self.count >= self.last

    def _calls(self) -> bool:
        self.count += 1
        if self.count == self.first:
            self.calls = 0
            self.seen["frames"] = frames_of(self.framework, sys._getframe())
            sys.setprofile(self._called)
        elif self.count == self.last:
            sys.setprofile(None)
            self.seen["calls"] = self.calls / self.steps
        return self.count >= self.last

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        self.calls += event == "call"

    def _memory(self) -> bool:
        self.count += 1
        if self.count >= self.first and (self.count - self.first) % (self.steps // 10) == 0:
            self.seen.setdefault("memory", []).append((self.count, resident_memory()))
        return self.count >= self.last


def frames_of(framework: str, frame: FrameType | None) -> int:
    """How many of the framework's own frames lie between here and the bottom of the stack."""
    folder = f"{os.sep}{framework}{os.sep}"
    count = 0
    while frame is not None:
        count += folder in frame.f_code.co_filename
        frame = frame.f_back
    return count


def resident_memory() -> float:
    """The memory of this process, in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # no /proc: the peak has to do
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def job(shuffle: bool, own_dataset: bool = False) -> tuple[Any, Any]:
    """The network and the data, the same for everyone; ``own_dataset`` looks its samples up one by one."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    class Own(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            return self.tensors[0][index], self.tensors[1][index]

    torch.set_num_threads(1)
    torch.manual_seed(0)
    samples = BATCH * BATCHES_PER_EPOCH
    kind = Own if own_dataset else TensorDataset
    data = kind(torch.randn(samples, FEATURES), torch.randint(CLASSES, (samples,)))
    net = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    return net, DataLoader(data, batch_size=BATCH, shuffle=shuffle)


# Around the runs


def add_arguments(parser: argparse.ArgumentParser, runs: Mapping[str, str]) -> None:
    """The options of every benchmark of a step, and those by which it starts itself for one run."""
    parser.add_argument("--only", nargs="+", choices=runs, metavar="RUN", help=f"out of: {', '.join(runs)}")
    parser.add_argument("--steps", type=int, help="timed steps (3000)")
    parser.add_argument("--warm", type=int, default=300, help="steps before the clock starts (300)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median counts (5)")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--read", default="time", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)


def measure(script: str, python: str, name: str, read: str, warm: int, steps: int) -> dict[str, Any]:
    """One run in a fresh process, in a folder and at a terminal of its own (a progress bar draws only at a terminal)."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [python, str(Path(script).resolve()), "--run", name, "--read", read]
        command += ["--warm", str(warm), "--steps", str(steps), "--result", str(result)]
        code, shown = at_a_terminal(command, folder)
        if code or not result.exists():
            raise SystemExit(f"{name} failed with exit status {code}:\n{shown[-4000:]}")
        seen: dict[str, Any] = json.loads(result.read_text())
        return seen


def at_a_terminal(command: list[str], folder: str) -> tuple[int, str]:
    """Run a command at a pseudo-terminal; its exit status, and what it showed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown: list[bytes] = []
    reader = threading.Thread(target=lambda: shown.extend(everything_from(ours)))
    reader.start()
    code = process.wait()
    reader.join()
    os.close(ours)
    return code, b"".join(shown).decode(errors="replace")


def everything_from(descriptor: int) -> Iterator[bytes]:
    """What arrives at a terminal until its other end is closed."""
    while True:
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # Linux reports the closed end as an error
            return
        if not chunk:
            return
        yield chunk


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print a markdown table, its columns aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def report_steps(
    script: str,
    runs: Mapping[str, str],
    meaning: Mapping[str, str],
    task: argparse.Namespace,
    *,
    step: str,
    plain: Callable[[str], str],
) -> None:
    """Measure the runs, each with its interpreter, in turn; the table of times, calls and frames of one ``step``.

    ``plain`` names the run that a run is compared with.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(task.repeats):
        for name, python in runs.items():
            times[name].append(measure(script, python, name, "time", task.warm, task.steps)["us"])
            print(f"round {repeat + 1} of {task.repeats}: {name} {times[name][-1]:.0f} us", file=sys.stderr)
    counted = {name: measure(script, python, name, "calls", 100, COUNTED) for name, python in runs.items()}

    medians = {name: statistics.median(seen) for name, seen in times.items()}
    rows = []
    for name in runs:
        base = plain(name)
        rows.append(
            [
                meaning[name],
                f"{medians[name]:.0f}",
                f"{min(times[name]):.0f} to {max(times[name]):.0f}",
                f"{medians[name] / medians[base]:.3f}" if base in runs else "",
                f"{counted[name]['calls']:.1f}",
                f"{counted[name]['calls'] - counted[base]['calls']:+.1f}" if base in runs else "",
                str(counted[name]["frames"]) if name != base else "",
            ]
        )
    table([step, "us, median", "us, range", "x plain", "Python calls", "more than plain", "frames"], rows)


def machine(versions: Mapping[str, str]) -> str:
    """Where and with what was measured, in a line."""
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; {packages}"
