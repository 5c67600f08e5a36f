"""What a framework adds to a training step: time, Python calls, stack frames, import time and memory, beside a plain loop.

    python benchmarks/overhead.py                              # plain loop and leyden
    python benchmarks/overhead.py --peers PATH/TO/python       # and what is installed there: Lightning, ignite, accelerate
    python benchmarks/overhead.py --only plain leyden-full --repeats 9
    python benchmarks/overhead.py --memory --only leyden-full  # resident memory over 100,000 steps

The job is the same everywhere: an MLP 64-128-10, batches of 64 out of a shuffled in-memory `DataLoader`, AdamW, one
thread. Every run has a process and a terminal of its own, and the runs alternate. The clock starts when step `--warm`
enters the training step and stops when step `--warm + --steps` does, so set-up and teardown are left out, and all that
happens in between (flushes, drawing, checkpoints) is counted. Both ends are taken by the same line of the job. An epoch is
longer than that, so a checkpoint at its end falls outside; the runs called `saves` write one every 1,000 steps as well.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
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
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

BATCH, FEATURES, HIDDEN, CLASSES = 64, 64, 128, 10
BATCHES_PER_EPOCH = 3400
COUNTED = 500
"""Steps over which calls are counted: inside one epoch, a multiple of the interval at which loggers write."""

PACKAGE = {
    "leyden": "leyden",
    "lightning": "lightning.pytorch",
    "ignite": "ignite.engine",
    "accelerate": "accelerate.accelerator",
}
MEANING = {
    "plain": "plain PyTorch loop",
    "leyden-bare": "leyden, everything off",
    "leyden-full": "leyden, everything on",
    "leyden-saves": "leyden, everything on, and a checkpoint every 1,000 steps",
    "leyden-barebones": "leyden, `barebones=True`",
    "lightning-bare": "Lightning, everything off",
    "lightning-full": "Lightning, everything on",
    "lightning-saves": "Lightning, everything on, and a checkpoint every 1,000 steps",
    "lightning-barebones": "Lightning, `barebones=True`",
    "ignite": "ignite, engine only",
    "accelerate": "accelerate, prepared loop",
}


# One run, in a process of its own


class Clock:
    """Reads what is asked for when the training step is entered, and says when the run is over."""

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


def job() -> tuple[Any, Any, Callable[[Any], Any]]:
    """The network, the data and the optimizer, the same for everyone."""
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    torch.manual_seed(0)
    samples = BATCH * BATCHES_PER_EPOCH
    data = TensorDataset(torch.randn(samples, FEATURES), torch.randint(CLASSES, (samples,)))
    net = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    return net, DataLoader(data, batch_size=BATCH, shuffle=True), lambda parameters: torch.optim.AdamW(parameters, lr=1e-3)


def plain(clock: Clock, variant: str) -> None:
    from torch.nn import functional as F

    net, loader, make_optimizer = job()
    optimizer = make_optimizer(net.parameters())
    for _ in itertools.count():
        for x, y in loader:
            if clock.tick():
                return
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def trainer_with_modules(clock: Clock, variant: str) -> None:
    """Leyden and Lightning: the same module, the same arguments."""
    from torch.nn import functional as F

    package = PACKAGE[clock.framework]
    pl = importlib.import_module(package)
    net, loader, make_optimizer = job()
    logs = variant in ("full", "saves")

    class Job(pl.LightningModule):  # type: ignore[name-defined,misc] # the package is chosen when this runs
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            clock.tick()
            x, y = batch
            loss = F.cross_entropy(self.net(x), y)
            if logs:
                self.log("loss", loss, prog_bar=True)
                self.log("loss_again", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> Any:
            return make_optimizer(self.parameters())

    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": -1, "max_steps": clock.last + 1}
    if variant == "barebones":
        options["barebones"] = True
    elif variant == "bare":
        options |= dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)
    else:
        callbacks = importlib.import_module(f"{package}.callbacks")
        loggers = importlib.import_module(f"{package}.loggers")
        options["logger"] = [loggers.CSVLogger("logs"), loggers.TensorBoardLogger("logs")]
        options["callbacks"] = [
            callbacks.ModelCheckpoint(
                dirpath="checkpoints", save_last=True, every_n_train_steps=1000 if variant == "saves" else None
            )
        ]
    pl.Trainer(**options).fit(Job(), loader)


def ignite(clock: Clock, variant: str) -> None:
    from ignite.engine import Engine
    from torch.nn import functional as F

    net, loader, make_optimizer = job()
    optimizer = make_optimizer(net.parameters())

    def step(engine: Any, batch: Any) -> Any:
        if clock.tick():
            engine.terminate()
        x, y = batch
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    Engine(step).run(loader, max_epochs=clock.last // BATCHES_PER_EPOCH + 1)


def accelerate(clock: Clock, variant: str) -> None:
    from accelerate import Accelerator
    from torch.nn import functional as F

    accelerator = Accelerator(cpu=True)
    net, loader, make_optimizer = job()
    net, optimizer, loader = accelerator.prepare(net, make_optimizer(net.parameters()), loader)
    for _ in itertools.count():
        for x, y in loader:
            if clock.tick():
                return
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()


def run_here(task: argparse.Namespace) -> None:
    """Do one run in this process, and leave what was read in the file that was named."""
    clock = Clock(task)
    run = {"plain": plain, "ignite": ignite, "accelerate": accelerate}.get(clock.framework, trainer_with_modules)
    run(clock, variant=task.run.partition("-")[2])
    Path(task.result).write_text(json.dumps(clock.seen))


# The driver


def measure(python: str, name: str, read: str, warm: int, steps: int) -> dict[str, Any]:
    """One run in a fresh process, in a folder and at a terminal of its own (a progress bar draws only at a terminal)."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [python, str(Path(__file__).resolve()), "--run", name, "--read", read]
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


def installed(python: str, package: str) -> str | None:
    """The version of a package where this interpreter looks for it, or None."""
    source = f"import {package.partition('.')[0]} as package; print(package.__version__)"
    done = subprocess.run([python, "-c", source], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 else None


def import_seconds(python: str, package: str) -> float:
    """What importing a package costs when torch is there already, in seconds."""
    source = f"import time, torch; begin = time.perf_counter(); import {package}; print(time.perf_counter() - begin)"
    done = subprocess.run([python, "-W", "ignore", "-c", source], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def candidates(peers: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """The runs that can be done here, each with its interpreter; the packages behind them, each with its version."""
    runs = {"plain": sys.executable}
    versions = {}
    for framework, package in PACKAGE.items():
        python = sys.executable if framework == "leyden" else peers
        version = installed(python, package) if python else None
        if python and version:
            versions[framework] = version
            runs |= {name: python for name in MEANING if name.partition("-")[0] == framework}
    return runs, versions


def table(header: list[str], rows: list[list[str]]) -> None:
    """Print a markdown table, its columns aligned."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def report_steps(runs: dict[str, str], task: argparse.Namespace) -> None:
    """The table of times, calls and frames."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(task.repeats):
        for name, python in runs.items():
            times[name].append(measure(python, name, "time", task.warm, task.steps)["us"])
            print(f"round {repeat + 1} of {task.repeats}: {name} {times[name][-1]:.0f} us", file=sys.stderr)
    counted = {name: measure(python, name, "calls", 100, COUNTED) for name, python in runs.items()}

    medians = {name: statistics.median(seen) for name, seen in times.items()}
    base, base_calls = medians.get("plain"), counted.get("plain", {}).get("calls")
    rows = [
        [
            MEANING[name],
            f"{medians[name]:.0f}",
            f"{min(times[name]):.0f} to {max(times[name]):.0f}",
            f"{medians[name] / base:.3f}" if base else "",
            f"{counted[name]['calls']:.1f}",
            f"{counted[name]['calls'] - base_calls:+.1f}" if base_calls else "",
            str(counted[name]["frames"]) if name != "plain" else "",
        ]
        for name in runs
    ]
    table(["one training step", "us, median", "us, range", "x plain", "Python calls", "more than plain", "frames"], rows)


def report_imports(runs: dict[str, str], task: argparse.Namespace) -> None:
    """The table of import times."""
    pythons = {name.partition("-")[0]: python for name, python in runs.items() if name != "plain"}
    if not pythons:
        return
    seconds: dict[str, list[float]] = {framework: [] for framework in pythons}
    for _ in range(task.repeats):
        for framework, python in pythons.items():
            seconds[framework].append(import_seconds(python, PACKAGE[framework]))
    print()
    rows = [[PACKAGE[framework], f"{statistics.median(seen):.2f}"] for framework, seen in seconds.items()]
    table(["import, after torch", "s, median"], rows)


def report_memory(runs: dict[str, str], task: argparse.Namespace) -> None:
    """The table of resident memory over a long run."""
    steps = task.steps or 100_000
    for name, python in runs.items():
        seen = measure(python, name, "memory", 1000, steps)["memory"]
        print()
        table([MEANING[name], "MiB"], [[f"step {count:,}", f"{mebibytes:.1f}"] for count, mebibytes in seen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has Lightning, ignite or accelerate")
    parser.add_argument("--only", nargs="+", choices=MEANING, metavar="RUN", help=f"out of: {', '.join(MEANING)}")
    parser.add_argument("--steps", type=int, help="timed steps (3000; 100000 with --memory)")
    parser.add_argument("--warm", type=int, default=300, help="steps before the clock starts (300)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, of which the median counts (5)")
    parser.add_argument("--memory", action="store_true", help="measure resident memory over a long run, and nothing else")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--read", default="time", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    task = parser.parse_args()
    if task.run:
        run_here(task)
        return

    runs, versions = candidates(task.peers)
    if task.only:
        missing = [name for name in task.only if name not in runs]
        if missing:
            parser.error(f"not installed here: {', '.join(missing)} (--peers names an interpreter that has them)")
        runs = {name: runs[name] for name in task.only}

    import torch

    packages = ", ".join(f"{name} {version}" for name, version in {"torch": torch.__version__, **versions}.items())
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}; {packages}\n")
    if task.memory:
        report_memory(runs, task)
        return
    task.steps = task.steps or 3000
    report_steps(runs, task)
    report_imports(runs, task)


if __name__ == "__main__":
    main()
