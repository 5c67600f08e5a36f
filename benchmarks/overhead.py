"""What a framework adds to a training step: time, Python calls, stack frames, import time and memory, beside a plain loop.

    python benchmarks/overhead.py                              # plain loop and leyden
    python benchmarks/overhead.py --peers PATH/TO/python       # and what is installed there: Lightning, ignite, accelerate
    python benchmarks/overhead.py --only plain leyden-full --repeats 9
    python benchmarks/overhead.py --memory --only leyden-full  # resident memory over 100,000 steps

The job and how it is timed stand in measuring.py; here the data are shuffled and AdamW steps. Leyden reads a TensorDataset by
whole batches; the runs of an `own dataset` have one with a `__getitem__` of its own, which everybody reads sample by sample.
What happens between steps (flushes, drawing, checkpoints) is counted. An epoch is longer than the timed steps, so a
checkpoint at its end falls outside; the runs called `saves` write one every 1,000 steps as well.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from measuring import BATCHES_PER_EPOCH, SWITCHED_OFF, Clock, add_arguments, job, machine, measure, report_steps, table

PACKAGE = {
    "leyden": "leyden",
    "lightning": "lightning.pytorch",
    "ignite": "ignite.engine",
    "accelerate": "accelerate.accelerator",
}
MEANING = {
    "plain": "plain PyTorch loop",
    "whole": "plain loop that gathers whole batches by hand",
    "plain-own": "own dataset: plain PyTorch loop",
    "leyden-bare-own": "own dataset: leyden, everything off",
    "leyden-full-own": "own dataset: leyden, everything on",
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


def optimizer_of(parameters: Any) -> Any:
    import torch

    return torch.optim.AdamW(parameters, lr=1e-3)


def plain(clock: Clock, variant: str) -> None:
    from torch.nn import functional as F

    net, loader = job(shuffle=True, own_dataset=variant == "own")
    optimizer = optimizer_of(net.parameters())
    for _ in itertools.count():
        for x, y in whole_batches(loader) if clock.framework == "whole" else loader:
            if clock.tick():
                return
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def whole_batches(loader: Any) -> Any:
    """The batches of a loader of tensors, shuffled and gathered by hand: as little as reading them can cost."""
    import torch

    for rows in torch.randperm(len(loader.dataset)).split(loader.batch_size):
        yield [tensor[rows] for tensor in loader.dataset.tensors]


def trainer_with_modules(clock: Clock, variant: str) -> None:
    """Leyden and Lightning: the same module, the same arguments."""
    from torch.nn import functional as F

    package = PACKAGE[clock.framework]
    pl = importlib.import_module(package)
    variant, _, own = variant.partition("-")
    net, loader = job(shuffle=True, own_dataset=bool(own))
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
            return optimizer_of(self.parameters())

    options: dict[str, Any] = {"accelerator": "cpu", "max_epochs": -1, "max_steps": clock.last + 1}
    if variant == "barebones":
        options["barebones"] = True
    elif variant == "bare":
        options |= SWITCHED_OFF
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

    net, loader = job(shuffle=True)
    optimizer = optimizer_of(net.parameters())

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
    net, loader = job(shuffle=True)
    net, optimizer, loader = accelerator.prepare(net, optimizer_of(net.parameters()), loader)
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
    run = {"plain": plain, "whole": plain, "ignite": ignite, "accelerate": accelerate}.get(clock.framework, trainer_with_modules)
    run(clock, variant=task.run.partition("-")[2])
    Path(task.result).write_text(json.dumps(clock.seen))


# The driver


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
    runs = dict.fromkeys(("plain", "whole", "plain-own"), sys.executable)
    versions = {}
    for framework, package in PACKAGE.items():
        python = sys.executable if framework == "leyden" else peers
        version = installed(python, package) if python else None
        if python and version:
            versions[framework] = version
            runs |= {name: python for name in MEANING if name.partition("-")[0] == framework}
    return runs, versions


def report_imports(runs: dict[str, str], task: argparse.Namespace) -> None:
    """The table of import times."""
    pythons = {name.partition("-")[0]: python for name, python in runs.items() if name.partition("-")[0] in PACKAGE}
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
        seen = measure(__file__, python, name, "memory", 1000, steps)["memory"]
        print()
        table([MEANING[name], "MiB"], [[f"step {count:,}", f"{mebibytes:.1f}"] for count, mebibytes in seen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has Lightning, ignite or accelerate")
    parser.add_argument("--memory", action="store_true", help="resident memory over 100,000 steps (--steps), and nothing else")
    add_arguments(parser, MEANING)
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

    print(machine({"torch": torch.__version__, **versions}) + "\n")
    if task.memory:
        report_memory(runs, task)
        return
    task.steps = task.steps or 3000
    report_steps(
        __file__,
        runs,
        MEANING,
        task,
        step="one training step",
        plain=lambda name: "plain-own" if name.endswith("-own") else "plain",
    )
    report_imports(runs, task)


if __name__ == "__main__":
    main()
