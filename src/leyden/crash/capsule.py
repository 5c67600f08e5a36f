"""The crash capsule: what a step that failed needs to fail again, in a folder beside the run's other files."""

from __future__ import annotations

import os
import platform
import random
import sys
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.format import Unwritable, encode
from leyden.checkpoint.random_state import as_plain
from leyden.data.generators import generators_in, states_of
from leyden.loggers.base import Logger, folder_of
from leyden.state.flight import Flight
from leyden.state.progress import Progress
from leyden.tree import same_bits, tree_leaves, tree_map
from leyden.version import __version__

FILE = "capsule.ckpt"
FOLDER = "crash"
OWN = "module/"  # before the paths of the module's own generators
KEPT = 50  # losses that wait to be checked; also the most steps that pass before a bad one is seen
# Batches whose losses wait to be checked are kept as copies, which may hold this much in all. More would not stay in the
# processor's cache, and every new batch would cost time for memory that no loop by hand asks for.
_MOST_BYTES = 256 * 2**10
_SMALL = _MOST_BYTES // KEPT  # a batch of this size is copied at every step: nobody can measure it
_FIRST = 4 * 2**20  # one of this size in the first steps, to see whether the step changes it
_CHANGED = 64 * 2**20  # one of this size where the step was seen to change it
_FLUSHES_BETWEEN_LOOKS = 10  # at generators from which nothing was drawn


class Steps(Protocol):
    """A fit, as far as its steps are noted."""

    flight: Flight
    progress: Progress


class Failing(Protocol):
    """The run whose steps are noted, as far as it is asked."""

    loggers: list[Logger]

    @property
    def leyden_fit(self) -> Steps: ...
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

    def leyden_warn(self, text: str) -> None: ...

    def print(self, *args: Any) -> None: ...


@dataclass(slots=True)
class Noted:
    """What is known of a step that has begun."""

    batch: Any  # a copy, as it was; `None` where there is none
    held: int  # bytes of that copy
    index: int
    states: dict[str, Any]  # of random generators
    losses: int  # how many waited to be checked when it began


class Capsule:
    """Notes, step by step, what a replay needs; writes it down when a step fails.

    Random states are taken before a step only for generators that were drawn from since the last flush: the others
    stand where they stood then. Batches are copied, because a step may change its own in place, and no batch is held longer
    than the loop itself holds it: small ones at every step, larger ones in the first steps, and for good where it turns out
    that the step changes them.
    """

    def __init__(self, run: Failing, *, weights: bool) -> None:
        self.run = run
        self.weights = weights
        self.between_checks = 1 if weights else KEPT
        self.kept: list[Noted] = []  # steps whose losses are not checked yet
        self.held = 0  # bytes of their batches
        self.notes = True  # whether :meth:`note` has anything to do
        self.before: dict[str, Tensor] | None = None  # the weights before the running step, where asked for
        self.copy: Any = None  # of the running step's batch
        self._limit = sys.maxsize if weights else _FIRST  # bytes of a batch that is copied
        self._changes = False  # whether the step was seen to change its batch
        self._take: dict[str, Callable[[], Any]] = dict(_TAKE)
        self._looked = False  # for the module's own generators
        self._drawing = dict.fromkeys(_TAKE, True)  # generators that are being drawn from
        self._at_flush = {name: take() for name, take in _TAKE.items()}
        self._states = self._at_flush  # before the newest step
        self._noting = True
        self._flushes = 0

    # -- step by step
    def note(self, batch: Any, index: int, losses: int = 0) -> None:
        """A step is about to begin, and so many losses wait to be checked."""
        if self._noting:
            if not self._looked:
                self._look()
            drawn = {name: self._take[name]() for name, drawing in self._drawing.items() if drawing}
            self._states = {**self._at_flush, **drawn}
        self.copy, held = copied(batch, self._limit)
        self.kept.append(Noted(self.copy, held, index, self._states, losses))
        self.held += held
        if self.held > _MOST_BYTES:
            self._let_go()
        if self.weights:
            self.before = {name: value.detach().clone() for name, value in self.run.lightning_module.state_dict().items()}

    def _look(self) -> None:
        """Find the module's own generators: once, when it is as it is trained."""
        self._looked = True
        for path, generator in generators_in(self.run.lightning_module).items():
            name = f"{OWN}{path}"
            self._take[name] = partial(_state_of, path, generator)
            self._drawing[name] = True
            self._at_flush[name] = self._take[name]()

    def _let_go(self) -> None:
        """Let batches go, the oldest first, until the others hold no more than they may."""
        for noted in self.kept:
            self.held, noted.batch, noted.held = self.held - noted.held, None, 0
            if self.held <= _MOST_BYTES:
                return

    def flush(self) -> None:
        """The losses were finite: let their batches go, and see which generators are being drawn from."""
        was_small = 0 < self.held <= _MOST_BYTES
        self.kept.clear()
        self.held = 0
        self._flushes += 1
        if self.copy is not None and self._limit > _SMALL:
            self._changes = self._changes or not same_bits(self.copy, self.run.leyden_fit.flight.batch)
            if not self.weights:
                self._limit = _CHANGED if self._changes else _SMALL
        self.copy = None
        looks = self._flushes % _FLUSHES_BETWEEN_LOOKS == 0
        if self._noting or looks:
            for name, take in self._take.items():
                now = take()
                self._drawing[name] = not same_bits(now, self._at_flush[name])
                self._at_flush[name] = now
            self._noting = any(self._drawing.values())
            self._states = self._at_flush = dict(self._at_flush)
        self.notes = self._noting or looks or was_small or self._changes or self.weights

    # -- when it happens
    def write(self, error: BaseException, step: str, at: int | None = None, loss: float | None = None, of: int = 0) -> str | None:
        """Write the folder; returns its path, or ``None`` where the run writes no files.

        ``at`` is the loss that was not finite, counted from the first of the ``of`` that waited to be checked.
        """
        folder = self._folder()
        if folder is None:
            return None
        try:  # a device on which a kernel has failed answers nothing any more: what is told is the error that it failed with
            content = self._content(error, step, at, loss, of)
            os.makedirs(folder, exist_ok=True)
            TorchCheckpointIO().save_checkpoint(encode(content), os.path.join(folder, FILE))
            with open(os.path.join(folder, "traceback.txt"), "w", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
                file.write("\n" + "\n".join(f"{name}: {value}" for name, value in versions().items()) + "\n")
        except Exception as trouble:
            self.run.leyden_warn(f"The crash capsule could not be written to {folder}: {trouble}")
            return None
        self.run.print(f"The step that failed was kept. To run it again: leyden.replay({folder!r}, module)")
        return folder

    def _content(self, error: BaseException, step: str, at: int | None, loss: float | None, of: int) -> dict[str, Any]:
        batch, index, states, as_it_was = self._failed(at, of)
        module = self.run.lightning_module
        return {
            "leyden": __version__,
            "step": step,
            "batch": tree_map(batch, Tensor, lambda tensor: tensor.detach().cpu()),
            "batch_as_it_was": as_it_was,
            "batch_idx": index,
            "epoch": self.run.current_epoch,
            "global_step": self.run.global_step,
            "random": as_plain(states["python"], states["numpy"], states["torch"], states["cuda"]),
            "generators": {name.removeprefix(OWN): state for name, state in states.items() if name.startswith(OWN)},
            "modes": {name: child.training for name, child in module.named_modules()},
            "precision": self.run.precision,
            "device": module.device.type,
            "accumulate": self.run.accumulate_grad_batches,
            "gradients": {name: p.grad.cpu() for name, p in module.named_parameters() if p.grad is not None}
            if self.weights and self.run.leyden_fit.progress.window
            else {},
            "error": {"type": type(error).__qualname__, "text": str(error)},
            "loss": loss,
            "weights": self.before if self.weights else None,
            "versions": versions(),
        }

    def _failed(self, at: int | None, of: int) -> tuple[Any, int, dict[str, Any], bool]:
        """The failed step's batch, its index, the random states before it, and whether the batch is as it was then."""
        flight = self.run.leyden_fit.flight
        newest = self.kept[-1] if self.kept else None
        noted = newest if at is None else next((each for each in reversed(self.kept) if each.losses <= at), None)
        if noted is not None and noted is not newest:
            gone = Unwritable("batch", f"the batch {noted.index}, which was let go of before its loss was looked at")
            return gone if noted.batch is None else noted.batch, noted.index, noted.states, True
        if noted is None and at is not None and at + 1 < of:
            index = flight.index + at + 1 - of
            return Unwritable("batch", f"the batch {index}, which was let go of"), index, self._states, True
        if self.copy is not None:
            return self.copy, flight.index, self._states, True
        changed = any(not leaf.is_inference() and leaf._version for leaf in tree_leaves(flight.batch, Tensor))
        return flight.batch, flight.index, self._states, not changed

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
        return os.path.join(place, FOLDER, f"epoch={run.current_epoch}-batch={run.leyden_fit.progress.batch}-{int(time.time())}")


def capsules_of(run: Failing) -> str | None:
    """The folder of the run's capsules, if it holds any."""
    place = next(filter(None, map(folder_of, run.loggers)), run.default_root_dir)
    folder = os.path.join(place, FOLDER)
    if run.fast_dev_run or not run.is_global_zero or not os.path.isdir(folder):
        return None
    return folder if any(os.path.isfile(os.path.join(folder, name, FILE)) for name in os.listdir(folder)) else None


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
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None


_TAKE = {
    "torch": torch.get_rng_state,
    "python": random.getstate,
    "numpy": lambda: np.random.get_state(legacy=False),
    "cuda": _cuda_state,
}


def _state_of(path: str, generator: Any) -> Any:
    return states_of({path: generator})[path]


def copied(value: Any, most: int) -> tuple[Any, int]:
    """A copy of a batch, and the bytes that its tensors and arrays hold; ``(None, 0)`` where these are more than ``most``.

    The same of what is not made of tensors, arrays, lists, tuples, dicts and plain values: nobody knows what it holds.
    """
    kind, held = type(value), 0
    if kind is Tensor or kind is np.ndarray:
        held = value.nbytes
        if held > most or (kind is np.ndarray and value.dtype.hasobject):
            return None, 0
        return (value.detach().clone() if kind is Tensor else value.copy()), held
    if kind is list or kind is tuple or kind is dict or hasattr(value, "_fields") or isinstance(value, OrderedDict):
        copies = []
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) is Tensor:  # the usual leaf, without a call
                bytes_of_item = item.nbytes
                if held + bytes_of_item > most:
                    return None, 0
                copy: Any = item.detach().clone() if item.requires_grad else item.clone()
            elif item is None:
                copy, bytes_of_item = None, 0
            else:
                copy, bytes_of_item = copied(item, most - held)
                if copy is None:
                    return None, 0
            copies.append(copy)
            held += bytes_of_item
        if isinstance(value, dict):
            return kind(zip(value, copies, strict=True)), held
        return copies if kind is list else tuple(copies) if kind is tuple else kind(*copies), held
    if kind in (int, float, bool, complex):
        return value, 32
    if kind is str or kind is bytes:
        return (value, len(value)) if len(value) <= most else (None, 0)
    return None, 0
