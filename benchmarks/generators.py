"""What finding random generators costs: the time of a walk by the module's size, and how often a fit walks.

    python benchmarks/generators.py
    python benchmarks/generators.py --submodules 1000 100000 --repeats 9

A walk goes over everything that is reachable from the module. It happens when a fit makes a loader, before a validation and at a
save, and never in a step. Times are the process's own CPU time, the least of the repeats.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import leyden
from leyden.data import generators
from leyden.state import generators as of_a_run

LIMIT_MS, AT = 50.0, 10_000


class Block(nn.Module):
    """A layer as users write them: settings in plain containers, a layer inside, a generator in one of a hundred."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.settings = {"number": number, "sizes": [1, 2, 3], "name": "block"}
        self.noise = torch.Generator() if number % 100 == 0 else None


def plain(submodules: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(1, 1) for _ in range(submodules)))


def blocks(submodules: int) -> nn.Module:
    return nn.Sequential(*map(Block, range(submodules // 2)))


def milliseconds(module: nn.Module, repeats: int) -> float:
    """The least CPU time of a walk."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        generators.generators_in(module)
        times.append(1000 * (time.process_time() - began))
    return min(times)


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = self.net(batch).pow(2).mean()
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.net(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def walks(batches: int, validations: int) -> int:
    """How often a fit of one epoch walks over its module."""
    names = vars(of_a_run)  # where a run looks the walk up
    count, walk = 0, names["generators_in"]

    def counted(root: Any) -> Any:
        nonlocal count
        count += isinstance(root, Net)
        return walk(root)

    names["generators_in"] = counted
    try:
        trainer = leyden.Trainer(
            accelerator="cpu",
            max_epochs=1,
            num_sanity_val_steps=0,
            val_check_interval=batches // validations if validations else 1.0,
            limit_val_batches=1 if validations else 0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data: Any = torch.randn(batches, 2)
        trainer.fit(Net(), DataLoader(data), DataLoader(data))
    finally:
        names["generators_in"] = walk
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submodules", type=int, nargs="+", default=[1_000, 3_000, AT, 30_000])
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    print(f"{platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, leyden {leyden.__version__}\n")
    print("| submodules | layers of PyTorch, ms | a user's blocks, ms | us a submodule |")
    print("| ---------- | --------------------- | ------------------- | -------------- |")
    reached = True
    for submodules in asked.submodules:
        first, second = milliseconds(plain(submodules), asked.repeats), milliseconds(blocks(submodules), asked.repeats)
        print(f"| {submodules:10,} | {first:21.1f} | {second:19.1f} | {1000 * first / submodules:14.2f} |")
        reached = reached and (submodules != AT or first <= LIMIT_MS)
    print("\n| one epoch of 20 batches | walks over the module |")
    print("| ----------------------- | --------------------- |")
    for validations in (0, 1, 4):
        print(f"| {validations} validations           | {walks(20, validations):21} |")
    print(f"\nTo reach: at most {LIMIT_MS:.0f} ms for {AT:,} layers: {'reached' if reached else 'missed'}.")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
