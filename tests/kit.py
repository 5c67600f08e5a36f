"""The furniture of the tests: a quiet trainer, tiny modules, plain data, a clock, and whether two states are the same."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import leyden
from leyden.checkpoint.durable import Disk
from leyden.testing import BoringModel, Recorder

# Runs

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def trainer(*callbacks: Any, **options: Any) -> leyden.Trainer:
    """A trainer of one epoch on the CPU that logs, saves and shows nothing, but for what ``options`` say.

    A file whose runs are all of one kind says so once: ``trainer = partial(kit.trainer, max_epochs=2)``.
    """
    return leyden.Trainer(**{**QUIET, "max_epochs": 1, "callbacks": list(callbacks), **options})


def fit(module: leyden.LightningModule, *loaders: Any, ckpt_path: Any = None, **options: Any) -> leyden.Trainer:
    """The trainer of ``options``, after it has trained ``module`` on the first loader and validated it on the second."""
    run = trainer(**options)
    run.fit(module, *loaders, ckpt_path=ckpt_path)
    return run


class Crash(Exception):
    """The end of a run that a test wants to break off."""


def at_batch(number: int, deed: Callable[[], Any]) -> Recorder:
    """A callback that does ``deed`` at the start of the training batch ``number``, counted from 0 over all epochs."""
    return Recorder(on_train_batch_start=lambda run, *_: deed() if run.leyden_fit.progress.batches == number else None)


def in_a_fresh_process(program: str, *arguments: Any, folder: Path | None = None) -> str:
    """What ``program`` prints when it has a Python process to itself, and stands in ``folder``. It fails if that fails."""
    # what is loaded need not be looked through once more where the process ends: that takes a second
    command = [sys.executable, "-c", f"{dedent(program)}\nimport gc; gc.freeze()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Modules


class Tiny(leyden.LightningModule):
    """One layer from two numbers to one, trained to be small, on batches that are tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0]).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Net(leyden.LightningModule):
    """Dropout and an optimizer with a memory, so that the order and number of batches and random draws matter.

    Its batches are tensors of four columns; it logs ``loss`` and ``val_loss``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.model(batch).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.model(batch).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Logging(BoringModel):
    """A BoringModel that logs the loss of each stage: ``train_loss`` (for the bar too), ``val_loss``, ``test_loss``."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.step(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", self.step(batch))

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.step(batch))


# Data


def ones(batches: int, size: int = 2) -> DataLoader[Any]:
    """So many batches ``(x,)``, each of one vector of ones."""
    return DataLoader(TensorDataset(torch.ones(batches, size)))


class Stream(IterableDataset[Any]):
    """Samples without a length."""

    def __init__(self, samples: Iterable[Any]) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)


class Halves(DataLoader[Any]):
    """Yields two batches for each that its sampler gives, as a user's own kind of loader may."""

    def __len__(self) -> int:
        return 2 * super().__len__()

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield from batch.chunk(2)


# Time and disk


class Clock:
    """Stands still, in seconds, until a test moves it."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Unsynced(Disk):
    """Leaves it to the operating system when a file gets to the disk, which saves time where no machine fails."""

    def sync_file(self, file: Any) -> None:
        pass

    def sync_folder(self, folder: str) -> None:
        pass


# What has come of it


def rows(folder: str | os.PathLike[str] | None) -> list[dict[str, str]]:
    """The rows that a CSVLogger has written into ``folder``, empty cells left out."""
    with open(Path(folder or "") / "metrics.csv", newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters and buffers of ``module``, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def whole_weights(run: leyden.Trainer) -> dict[str, Tensor]:
    """Copies of a fitted module's weights, put together where they are in shards: there only the first process may have them."""
    state = run.strategy.lightning_module_state_dict()
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value.clone() for name, value in state.items()}


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where two nested values differ. Modules are compared by their state, tensors by their bits and type; NaN is NaN."""
    if isinstance(expected, nn.Module) and isinstance(found, nn.Module):
        return differences(expected.state_dict(), found.state_dict(), path)
    if isinstance(expected, Tensor) and isinstance(found, Tensor):
        alike = expected.dtype == found.dtype and expected.shape == found.shape
        return [] if alike and bool(((expected == found) | ((expected != expected) & (found != found))).all()) else [path]
    if isinstance(expected, np.ndarray) and isinstance(found, np.ndarray):
        return [] if np.array_equal(expected, found) else [path]
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        if list(expected) != list(found):
            return [f"{path}: keys {list(expected)} and {list(found)}"]
        return [each for key in expected for each in differences(expected[key], found[key], f"{path}.{key}")]
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        if len(expected) != len(found):
            return [f"{path}: {len(expected)} and {len(found)} items"]
        return [each for i, pair in enumerate(zip(expected, found, strict=True)) for each in differences(*pair, f"{path}.{i}")]
    if isinstance(expected, Tensor | np.ndarray | nn.Module) or isinstance(found, Tensor | np.ndarray | nn.Module):
        return [f"{path}: {type(expected).__name__} and {type(found).__name__}"]
    return [] if expected == found or (expected != expected and found != found) else [f"{path}: {expected!r} and {found!r}"]


def same(expected: Any, found: Any) -> bool:
    """Whether two nested values do not differ (see :func:`differences`)."""
    return not differences(expected, found)
