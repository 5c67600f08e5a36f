"""What durable, verified checkpoints cost: beside `torch.save` with an fsync, `torch.load`, and a copy in memory.

    python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --megabytes 1000 --repeats 5 --folder /path/on/the/disk/to/measure

A run of leyden takes one step, and then saves from a hook: weights and Adam's state, 200 MB in all. The plain side saves the
same weights and the same optimizer state as a hand-written loop does. The two alternate; medians count.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden
from leyden.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

WIDTH = 832  # a layer and Adam's two moments of it: 8.3 MB


class Net(leyden.LightningModule):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).pow(2).mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def inside_a_run(layers: int, plugins: list[Any], measure: Callable[[leyden.Trainer, Net], None]) -> None:
    """Call ``measure`` in a run that has taken one step."""

    class Measure(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            measure(trainer, pl_module)

    trainer = leyden.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Measure()],
        plugins=plugins,
    )
    trainer.fit(Net(layers), DataLoader(torch.randn(2, WIDTH), batch_size=2))  # type: ignore[arg-type]  # a tensor has a length


def plain_state(trainer: leyden.Trainer, module: Net) -> dict[str, Any]:
    return {"model": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}


def save_plainly(state: dict[str, Any], path: Path) -> None:
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def copied(value: Any) -> Any:
    """A copy in memory, as simple as can be."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def seconds(deed: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    kept = deed()
    taken = time.perf_counter() - began
    del kept
    return taken


def alternating(repeats: int, deeds: dict[str, Callable[[], object]], between: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each deed, one after the other in turn, the first round not counted; ``between`` is not timed."""
    times: dict[str, list[float]] = {name: [] for name in deeds}
    for turn in range(repeats + 1):
        for name in list(deeds) if turn % 2 else reversed(deeds):
            taken = seconds(deeds[name])
            between()
            if turn:
                times[name].append(taken)
    return times


def load_afresh(what: str, path: Path, threads: int) -> float:
    """Seconds of a load in a process of its own, as after a restart: memory that a process has used before is faster."""
    command = [sys.executable, __file__, "--load", what, str(path), "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of weights and optimizer state")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    parser.add_argument("--load", nargs=2, help=argparse.SUPPRESS)  # what a process of its own is asked for
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.load:
        what, path = asked.load
        if what == "torch.load":
            print(seconds(lambda: torch.load(path, weights_only=True)))
        else:
            print(seconds(lambda: TorchCheckpointIO().load_checkpoint(path)))
        return 0
    layers = max(1, round(asked.megabytes * 1e6 / (WIDTH * (WIDTH + 1) * 12)))
    times: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        plain, ours = Path(name, "plain.pt"), Path(name, "ours.ckpt")

        def synchronously(trainer: leyden.Trainer, module: Net) -> None:
            deeds: dict[str, Callable[[], object]] = {
                "torch.save, fsync": lambda: save_plainly(plain_state(trainer, module), plain),
                "save_checkpoint": lambda: trainer.save_checkpoint(ours),
            }
            times.update(alternating(asked.repeats, deeds, os.sync))
            sizes.update(plain=plain.stat().st_size, ours=ours.stat().st_size)
            for _ in range(asked.repeats):
                for what, path in (("torch.load", plain), ("load_checkpoint", ours)):
                    times.setdefault(what, []).append(load_afresh(what, path, asked.threads))

        def in_the_background(trainer: leyden.Trainer, module: Net) -> None:
            deeds: dict[str, Callable[[], object]] = {
                "copy": lambda: copied(plain_state(trainer, module)),
                "save_checkpoint, asynchronous": lambda: trainer.save_checkpoint(ours),
            }
            times.update(alternating(asked.repeats, deeds, background.wait))

        background = AsyncCheckpointIO()
        inside_a_run(layers, [], synchronously)
        inside_a_run(layers, [background], in_the_background)
    report(times, sizes)
    return 0


def report(times: dict[str, list[float]], sizes: dict[str, int]) -> None:
    def row(what: str, mine: str, plain: str, limit: str) -> str:
        one, other = statistics.median(times[mine]), statistics.median(times[plain])
        spread = statistics.median(a / b for a, b in zip(times[mine], times[plain], strict=True))
        return f"| {what} | {1000 * one:.0f} ms | {plain}: {1000 * other:.0f} ms | {one / other:.2f} ({spread:.2f}) | {limit} |"

    print("| | leyden | beside it | ratio of medians (median of ratios) | limit |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(row("saving", "save_checkpoint", "torch.save, fsync", "1.3"))
    print(row("loading, verified", "load_checkpoint", "torch.load", "1.3"))
    print(row("stall of asynchronous saving", "save_checkpoint, asynchronous", "copy", "1"))
    one, other = sizes["ours"], sizes["plain"]
    print(f"| size | {one / 1e6:.2f} MB | plain state: {other / 1e6:.2f} MB | {one / other:.5f} | 1.01 |")
    print(f"\n{os.cpu_count()} cores; Python {platform.python_version()}, torch {torch.__version__}.")


if __name__ == "__main__":
    sys.exit(main())
