"""The crash capsule: what a step that failed needs to fail again, in a folder beside the run's other files."""

from __future__ import annotations

import os
import platform
import random
import time
import traceback
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.format import encode
from leyden.checkpoint.random_state import as_plain
from leyden.loggers.base import Logger, folder_of
from leyden.state.flight import Flight
from leyden.state.progress import Progress
from leyden.tree import tree_leaves, tree_map
from leyden.version import __version__

FILE = "capsule.ckpt"
FOLDER = "crash"
# Batches kept until their losses are checked may hold on to this much. More would not stay in the processor's cache, and
# every new batch would cost time for memory that no loop by hand asks for; "weights" checks, and keeps, one at a time.
_MOST_BYTES = 256 * 2**10
KEPT = 50  # losses that wait to be checked; also the most steps that pass before a bad one is seen
_FLUSHES_BETWEEN_LOOKS = 10  # at generators from which nothing was drawn


class Failing(Protocol):
    """The run whose steps are noted, as far as it is asked."""

    flight: Flight
    progress: Progress
    loggers: list[Logger]

    @property
    def lightning_module(self) -> Any: ...
    @property
    def current_epoch(self) -> int: ...
    @property
    def global_step(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def accumulate_grad_batches(self) -> int: ...
    @property
    def fast_dev_run(self) -> Any: ...
    @property
    def is_global_zero(self) -> bool: ...
    @property
    def default_root_dir(self) -> str: ...

    def warn(self, text: str) -> None: ...

    def print(self, *args: Any) -> None: ...


class Capsule:
    """Notes, step by step, what a replay needs; writes it down when a step fails.

    Random states are taken before a step only for generators that were drawn from since the last flush: the others
    stand where they stood then.
    """

    def __init__(self, run: Failing, *, weights: bool) -> None:
        self.run = run
        self.weights = weights
        self.between_checks = 1 if weights else KEPT
        self.kept: list[tuple[Any, int, dict[str, Any]]] = []  # batches whose losses are not checked yet
        self.notes = True  # whether :meth:`note` has anything to do
        self.before: dict[str, Tensor] | None = None  # the weights before the running step, where asked for
        self.fits: bool | None = None  # whether that many batches may be kept
        self._drawing = dict.fromkeys(_TAKE, True)  # generators that are being drawn from
        self._at_flush = {name: take() for name, take in _TAKE.items()}
        self._states = self._at_flush  # before the newest step
        self._noting = True
        self._flushes = 0

    # -- step by step
    def note(self, batch: Any, index: int) -> None:
        """A step is about to begin."""
        if self._noting:
            drawn = {name: _TAKE[name]() for name, drawing in self._drawing.items() if drawing}
            self._states = {**self._at_flush, **drawn}
        if self.fits is None:
            held = sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(batch, Tensor))
            self.fits = held * self.between_checks <= _MOST_BYTES
        if self.fits:
            self.kept.append((batch, index, self._states))
        self.notes = self._noting or self.fits or self.weights
        if self.weights:
            self.before = {name: value.detach().clone() for name, value in self.run.lightning_module.state_dict().items()}

    def flush(self) -> None:
        """The losses were finite: let their batches go, and see which generators are being drawn from."""
        self.kept.clear()
        self._flushes += 1
        if not self._noting and self._flushes % _FLUSHES_BETWEEN_LOOKS:
            return
        for name, take in _TAKE.items():
            now = take()
            self._drawing[name] = not _same(now, self._at_flush[name])
            self._at_flush[name] = now
        self._noting = any(self._drawing.values())
        self._states = self._at_flush = dict(self._at_flush)
        self.notes = self._noting or self.fits is None or self.fits or self.weights

    # -- when it happens
    def write(self, error: BaseException, step: str, at: int | None = None, loss: float | None = None) -> str | None:
        """Write the folder; returns its path, or ``None`` where the run writes no files.

        ``at`` counts back through the kept batches: the step whose loss was not finite.
        """
        folder = self._folder()
        if folder is None:
            return None
        flight = self.run.flight
        batch, index, states = flight.batch, flight.index, self._states
        if at is not None and self.fits and -len(self.kept) <= at < 0:
            batch, index, states = self.kept[at]
        module = self.run.lightning_module
        content = {
            "leyden": __version__,
            "step": step,
            "batch": tree_map(batch, Tensor, lambda tensor: tensor.detach().cpu()),
            "batch_idx": index,
            "epoch": self.run.current_epoch,
            "global_step": self.run.global_step,
            "random": as_plain(states["python"], states["numpy"], states["torch"], states["cuda"]),
            "modes": {name: child.training for name, child in module.named_modules()},
            "precision": self.run.precision,
            "accumulate": self.run.accumulate_grad_batches,
            "gradients": {name: p.grad.cpu() for name, p in module.named_parameters() if p.grad is not None}
            if self.weights and self.run.progress.window
            else {},
            "error": {"type": type(error).__qualname__, "text": str(error)},
            "loss": loss,
            "weights": self.before if self.weights else None,
            "versions": versions(),
        }
        try:
            os.makedirs(folder, exist_ok=True)
            TorchCheckpointIO().save_checkpoint(encode(content), os.path.join(folder, FILE))
            with open(os.path.join(folder, "traceback.txt"), "w", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
                file.write("\n" + "\n".join(f"{name}: {value}" for name, value in versions().items()) + "\n")
        except Exception as trouble:
            self.run.warn(f"The crash capsule could not be written to {folder}: {trouble}")
            return None
        self.run.print(f"The step that failed was kept. To run it again: leyden.replay({folder!r}, module)")
        return folder

    def drop(self) -> None:
        """The step that was noted had no loss."""
        if self.kept:
            self.kept.pop()

    @property
    def has_place(self) -> bool:
        """Whether there are logs beside which a capsule may stand, or one was asked for by ``"weights"``."""
        run = self.run
        return not run.fast_dev_run and run.is_global_zero and bool(run.loggers or self.weights)

    def _folder(self) -> str | None:
        run = self.run
        place = next(filter(None, map(folder_of, run.loggers)), None)
        if place is None and self.weights:
            place = run.default_root_dir
        if place is None or "://" in place:
            return None
        return os.path.join(place, FOLDER, f"epoch={run.current_epoch}-batch={run.progress.batch}-{int(time.time())}")


def versions() -> dict[str, str]:
    """Versions of what a step's numbers depend on."""
    return {
        "leyden": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _cuda_state() -> Any:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.get_rng_state_all()
    return None


_TAKE = {
    "torch": torch.get_rng_state,
    "python": random.getstate,
    "numpy": lambda: np.random.get_state(legacy=False),
    "cuda": _cuda_state,
}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, list):
        return isinstance(second, list) and all(map(torch.equal, first, second))
    if isinstance(first, dict):
        return bool(first["state"]["pos"] == second["state"]["pos"] and (first["state"]["key"] == second["state"]["key"]).all())
    return bool(first == second)
