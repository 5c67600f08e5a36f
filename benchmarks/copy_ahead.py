"""What it is worth that batches are copied to the GPU while the step before is computed.

    python benchmarks/copy_ahead.py                     # needs a CUDA device

The same convolutional network on the same batches of images, in one process, in turns: a loop by hand that copies with
``batch.to(device)``, one that copies from pinned memory without waiting, leyden, and leyden with a strategy of one's own that
moves batches on the stream of the computation. Batches are made once and read from memory, so that nothing but the copy and the
step is timed. The clock starts at a step and stops at a later one; the GPU is waited for at both. Medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measuring import machine, table
from torch import Tensor, nn

import leyden
from leyden.devices.transfer import move_data_to_device
from leyden.strategies import SingleDeviceStrategy

DEVICE = torch.device("cuda")


class OnOneStream(SingleDeviceStrategy):
    """Moves batches in the stream of the computation."""

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        return move_data_to_device(batch, device or self.root_device)


class Images(leyden.LightningModule):
    def __init__(self, width: int, tick: Callable[[], None]) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, width, 7, 4), nn.ReLU(), nn.Conv2d(width, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(width, 10),
        )  # fmt: skip
        self.tick = tick

    def loss(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.tick()
        return self.loss(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Clock:
    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count, self.began, self.seconds = first, last, -1, 0.0, 0.0

    def __call__(self) -> None:
        self.count += 1
        if self.count in (self.first, self.last):
            torch.cuda.synchronize()
            now = time.perf_counter()
            self.seconds, self.began = now - self.began, now


def by_hand(task: argparse.Namespace, batches: list[Any], module: Images, pinned: bool) -> None:
    module.to(DEVICE)
    optimizer = module.configure_optimizers()
    for number in range(task.warm + task.steps + 1):
        batch = batches[number % len(batches)]
        if pinned:
            batch = [each.pin_memory().to(DEVICE, non_blocking=True) for each in batch]
        else:
            batch = [each.to(DEVICE) for each in batch]
        loss = module.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def with_leyden(task: argparse.Namespace, batches: list[Any], module: Images, strategy: Any) -> None:
    steps: int = task.warm + task.steps + 1

    class Batches:
        def __len__(self) -> int:
            return steps

        def __iter__(self) -> Iterator[Any]:
            return (batches[number % len(batches)] for number in range(steps))

    trainer = leyden.Trainer(
        accelerator="auto" if strategy != "auto" else "gpu",
        devices=1,
        strategy=strategy,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, Batches())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value, meaning in (
        ("batch_size", 256, "images of 3 x 224 x 224"), ("width", 64, "channels"), ("warm", 10, "steps before the clock starts"),
        ("steps", 60, "timed steps"), ("repeats", 5, "rounds"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{meaning} ({value})")
    task = parser.parse_args()
    batches = [(torch.rand(task.batch_size, 3, 224, 224), torch.randint(10, (task.batch_size,))) for _ in range(8)]
    ways: dict[str, Callable[[Images], None]] = {
        "by hand, batch.to(device)": lambda module: by_hand(task, batches, module, pinned=False),
        "by hand, pinned and not waited for": lambda module: by_hand(task, batches, module, pinned=True),
        "leyden, on the stream of the computation": lambda module: with_leyden(task, batches, module, OnOneStream("cuda")),
        "leyden": lambda module: with_leyden(task, batches, module, "auto"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(task.repeats):
        for name, way in ways.items():
            clock = Clock(task.warm, task.warm + task.steps)
            way(Images(task.width, clock))
            times[name].append(clock.seconds / task.steps * 1e3)
    first = times[next(iter(ways))]
    print(machine({"torch": torch.__version__, "leyden": leyden.__version__}))
    print(f"{torch.cuda.get_device_name()}; batches of {task.batch_size} x 3 x 224 x 224 float32; width {task.width}\n")
    table(
        ["one step", "ms, median", "range", "x by hand"],
        [
            [
                name,
                f"{statistics.median(seen):.2f}",
                f"{min(seen):.2f} to {max(seen):.2f}",
                f"{statistics.median(mine / theirs for mine, theirs in zip(seen, first, strict=True)):.3f}",
            ]
            for name, seen in times.items()
        ],
    )


if __name__ == "__main__":
    main()
