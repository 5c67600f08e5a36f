"""Steps of many kinds, everything on, beside the same steps written by hand: in turn, in one process.

    python benchmarks/beside.py
    python benchmarks/beside.py --only iterable manual --repeats 5
    python benchmarks/beside.py --device cuda

After every 40 steps of a run, its `training_step` makes 40 steps of a loop by hand, with a network, optimizer and loader of
their own. A stretch of one is compared with the next of the other, some 30 ms away: whatever else the machine does strikes
both. What counts is the median of those ratios, over all repeats; beside it stand the quartiles. Times are the processor's, of
the thread that trains. The job is an MLP 32-64-10, batches of 32, AdamW, on one thread; a step of it takes about half a
millisecond, so that what a framework adds shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from measuring import SWITCHED_OFF, at_a_terminal, machine, table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import leyden
from leyden.callbacks import EMAWeightAveraging, LearningRateMonitor
from leyden.loggers import CSVLogger, TensorBoardLogger

KINDS = {
    "off": "everything off",
    "on": "everything on: bar, two loggers, checkpoints, two logged values",
    "tensors": "a TensorDataset",
    "dict": "samples are dicts",
    "iterable": "an iterable dataset",
    "collate": "a collate function of one's own",
    "log_dict": "four values by log_dict, of steps and epochs",
    "hooks": "five hooks of the module that do nothing",
    "schedule": "a scheduler by steps, and LearningRateMonitor",
    "clip": "gradient_clip_val=1.0",
    "accumulate": "accumulate_grad_batches=4",
    "bf16": 'precision="bf16-mixed"',
    "ema": "EMAWeightAveraging",
    "manual": "manual optimization",
    "two": "manual optimization, two optimizers",
}
"""All but `tensors`, `dict` and `iterable` have a dataset with a `__getitem__` of its own."""
STRETCH, WARM = 40, 5
BATCH, SAMPLES = 32, 32 * 6000


# Both sides


class Own(Dataset[Any]):
    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.x, self.y = torch.randn(SAMPLES, 32), torch.randint(10, (SAMPLES,))

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        x, y = self.x[index], self.y[index]
        return {"x": x, "y": y} if self.kind == "dict" else (x, y)


class Stream(IterableDataset[Any]):
    def __init__(self) -> None:
        self.samples = Own("iterable")

    def __iter__(self) -> Iterator[Any]:
        return (self.samples[index] for index in range(SAMPLES))


def stack(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


def loader(kind: str) -> DataLoader[Any]:
    if kind == "iterable":
        return DataLoader(Stream(), BATCH)
    data: Any = TensorDataset(torch.randn(SAMPLES, 32), torch.randint(10, (SAMPLES,))) if kind == "tensors" else Own(kind)
    return DataLoader(data, BATCH, shuffle=True, collate_fn=stack if kind == "collate" else None)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))


def loss_of(net: nn.Module, batch: Any) -> Tensor:
    x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
    return F.cross_entropy(net(x), y)


def optimizers_of(kind: str, net: nn.Module) -> list[Any]:
    made: list[Any] = [torch.optim.AdamW(net.parameters(), lr=1e-3)]
    return [*made, torch.optim.SGD(net.parameters(), lr=1e-3)] if kind == "two" else made


def schedule_of(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100_000)


def moved(batch: Any, device: str) -> Any:
    if isinstance(batch, dict):
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    return [value.to(device, non_blocking=True) for value in batch]


def by_hand(kind: str, device: str) -> Iterator[None]:
    """One step at a time."""
    net = network().to(device)
    optimizers = optimizers_of(kind, net)
    scheduler = schedule_of(optimizers[0]) if kind == "schedule" else None
    average = AveragedModel(net, avg_fn=get_ema_avg_fn(0.99)) if kind == "ema" else None
    batches_of_a_step = 4 if kind == "accumulate" else 1
    count = 0
    while True:
        for batch in loader(kind):
            count += 1
            batch = moved(batch, device) if device != "cpu" else batch
            for optimizer in optimizers:
                with torch.autocast(device, torch.bfloat16) if kind == "bf16" else nullcontext():
                    loss = loss_of(net, batch)
                if count % batches_of_a_step == 1 % batches_of_a_step:
                    optimizer.zero_grad()
                (loss / batches_of_a_step if batches_of_a_step > 1 else loss).backward()
                if kind == "clip":
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                if count % batches_of_a_step == 0:
                    optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if average is not None:
                average.update_parameters(net)
            yield


class Beside:
    """Counts batches of the run, and lets the loop by hand, ``other``, go on after each stretch of them."""

    def __init__(self, other: Iterator[Any], device: str, stretch: int = STRETCH) -> None:
        self.other, self.device, self.stretch = other, device, stretch
        self.pairs: list[tuple[float, float]] = []
        self._count = 0
        self._since: float | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Beside:
        """An average keeps a copy of the module, which counts nothing."""
        return self

    def tick(self) -> None:
        self._count += 1
        if self._count % self.stretch:
            return
        now = time.thread_time()
        with torch.autocast(self.device, enabled=False):
            for _ in range(self.stretch):
                next(self.other)
        if self._since is not None:
            self.pairs.append((now - self._since, time.thread_time() - now))
        self._since = time.thread_time()


class Job(leyden.LightningModule):
    def __init__(self, kind: str, beside: Beside) -> None:
        super().__init__()
        self.net, self.kind, self.beside = network(), kind, beside
        self.automatic_optimization = kind not in ("manual", "two")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.beside.tick()
        loss = loss_of(self.net, batch)
        if not self.automatic_optimization:
            optimizers: Any = self.optimizers()
            for number, optimizer in enumerate(optimizers if self.kind == "two" else [optimizers]):
                loss = loss_of(self.net, batch) if number else loss
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
        if self.kind == "log_dict":
            self.log_dict({"a": loss, "b": loss.detach(), "c": 1.0, "d": 2.0}, on_step=True, on_epoch=True)
        elif self.kind != "off":
            self.log("loss", loss, prog_bar=True)
            self.log("loss_again", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizers = optimizers_of(self.kind, self)
        if self.kind == "schedule":
            return optimizers, [{"scheduler": schedule_of(optimizers[0]), "interval": "step"}]
        return optimizers


class Hooked(Job):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None: ...
    def on_before_zero_grad(self, optimizer: Any) -> None: ...
    def on_after_backward(self) -> None: ...
    def on_before_optimizer_step(self, optimizer: Any) -> None: ...
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...


def run_here(kind: str, batches: int, device: str) -> list[tuple[float, float]]:
    """The pairs of one run: seconds of a stretch with leyden, and of the one by hand after it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options: dict[str, Any] = {"accelerator": device, "devices": 1, "max_epochs": -1, "max_steps": batches}
    if kind == "off":
        options |= SWITCHED_OFF
    else:
        options["logger"] = [CSVLogger("logs"), TensorBoardLogger("logs")]
    if kind == "accumulate":
        options |= {"accumulate_grad_batches": 4, "max_steps": batches // 4}
    elif kind == "clip":
        options["gradient_clip_val"] = 1.0
    elif kind == "bf16":
        options["precision"] = "bf16-mixed"
    callbacks: dict[str, Any] = {"ema": EMAWeightAveraging(decay=0.99), "schedule": LearningRateMonitor()}
    beside = Beside(by_hand(kind, device), device)
    module = (Hooked if kind == "hooks" else Job)(kind, beside)
    leyden.Trainer(**options, callbacks=callbacks.get(kind)).fit(module, loader(kind))
    return beside.pairs[WARM:]


# Around the runs


def run(kind: str, batches: int, device: str) -> list[tuple[float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--run", kind]
        command += ["--batches", str(batches), "--device", device, "--result", str(result)]
        code, shown = at_a_terminal(command, folder)
        if code or not result.exists():
            raise SystemExit(f"{kind} failed with exit status {code}:\n{shown[-4000:]}")
        return [(ours, theirs) for ours, theirs in json.loads(result.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=f"out of: {', '.join(KINDS)}")
    parser.add_argument("--batches", type=int, default=5000, help="of each run (5000)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind (3)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of both (cpu)")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    task = parser.parse_args()
    if task.run:
        Path(task.result).write_text(json.dumps(run_here(task.run, task.batches, task.device)))
        return
    kinds = task.only or list(KINDS)
    pairs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for repeat in range(task.repeats):
        for kind in kinds:
            pairs[kind] += run(kind, task.batches, task.device)
            print(f"round {repeat + 1} of {task.repeats}: {kind}", file=sys.stderr)
    print(machine({"torch": torch.__version__, "leyden": leyden.__version__}) + "\n")
    rows = []
    for kind in kinds:
        low, middle, high = statistics.quantiles((ours / theirs for ours, theirs in pairs[kind]), n=4)
        by_hand_us = statistics.median(theirs for _, theirs in pairs[kind]) / STRETCH * 1e6
        rows.append([KINDS[kind], f"{by_hand_us:.0f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"])
    table(["one batch", "by hand, us", "x by hand", "quartiles"], rows)


if __name__ == "__main__":
    main()
