"""Guarantee 7: what leyden adds to a training step, in Python calls and stack frames, which no load on the machine changes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from leyden.loggers import CSVLogger, TensorBoardLogger

BARE, EVERYTHING, FRAMES = 20, 40, 8
SHORT, LONG = 100, 250
"""Run lengths whose difference leaves set-up out; both whole multiples of the intervals at which values are flushed."""

Optimizer = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.001),
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.001),
}


def calls_per_step(run: Callable[[int], None]) -> float:
    """Python calls of one step of ``run(steps)``."""

    def counted(steps: int) -> int:
        count = 0

        def note(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event == "call"

        before = sys.getprofile()
        sys.setprofile(note)
        try:
            run(steps)
        finally:
            sys.setprofile(before)
        return count

    run(10)  # what is imported, compiled and cached by the first run
    short, long = counted(SHORT), counted(LONG)
    return (long - short) / (LONG - SHORT)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def batches(steps: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.zeros(2 * steps, 8), torch.zeros(2 * steps, dtype=torch.int64)), batch_size=2)


class Net(leyden.LightningModule):
    def __init__(self, optimizer: str = "sgd") -> None:
        super().__init__()
        self.model = network()
        self.optimizer_name = optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return loss_of(self.model, batch)

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer_name](self.parameters())


class Logging(Net):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = loss_of(self.model, batch)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
        self.log("logged_too", loss * 2)
        return loss


def plain(optimizer: str) -> Callable[[int], None]:
    def run(steps: int) -> None:
        model = network()
        stepping = OPTIMIZERS[optimizer](model.parameters())
        for batch in batches(steps):
            stepping.zero_grad()
            loss_of(model, batch).backward()
            stepping.step()

    return run


def bare(optimizer: str) -> Callable[[int], None]:
    def run(steps: int) -> None:
        kit.fit(Net(optimizer), batches(steps))

    return run


def everything(optimizer: str, folder: Path) -> Callable[[int], None]:
    runs = itertools.count()

    def run(steps: int) -> None:
        here = folder / str(next(runs))
        trainer = leyden.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=[CSVLogger(here), TensorBoardLogger(here)],
            callbacks=[
                TQDMProgressBar(),
                ModelCheckpoint(here / "kept", monitor="loss_epoch", save_last=True),
                EarlyStopping("loss_epoch"),
                LearningRateMonitor(),
            ],
        )
        trainer.fit(Logging(optimizer), batches(steps))

    return run


@cache
def calls_by_hand(optimizer: str) -> float:
    return calls_per_step(plain(optimizer))


@cache
def calls_bare(optimizer: str) -> float:
    return calls_per_step(bare(optimizer))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_bare_step_adds_few_calls(optimizer: str) -> None:
    assert calls_bare(optimizer) - calls_by_hand(optimizer) <= BARE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_with_everything_on_adds_few_calls(optimizer: str, tmp_path: Path) -> None:
    assert calls_per_step(everything(optimizer, tmp_path)) - calls_by_hand(optimizer) <= EVERYTHING


class Stream(IterableDataset[Any]):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __iter__(self) -> Iterator[Any]:
        return iter([(torch.zeros(8), 0)] * self.samples)


class Hooked(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None: ...
    def on_before_zero_grad(self, optimizer: Any) -> None: ...
    def on_after_backward(self) -> None: ...
    def on_before_optimizer_step(self, optimizer: Any) -> None: ...
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None: ...


KINDS: dict[str, tuple[Callable[[int], None], int]] = {
    "a batch is fetched ahead": (lambda steps: kit.fit(Net(), DataLoader(Stream(2 * steps), batch_size=2)), 18),
    "five hooks": (lambda steps: kit.fit(Hooked(), batches(steps)), 18),
    # three of four take no step
    "a window of four": (lambda steps: kit.fit(Net(), batches(steps), accumulate_grad_batches=4), -25),
}
"""Steps of other kinds, and how many calls more than a bare one they have."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_another_kind_has_few_calls_more(kind: str) -> None:
    run, most = KINDS[kind]
    assert calls_per_step(run) - calls_bare("sgd") <= most


def test_the_counter_counts() -> None:
    def called() -> None:
        pass

    assert calls_per_step(lambda steps: [called() for _ in range(steps)][:0] or None) == 1


# -- the stack


def ours(frame: Any) -> Iterator[str]:
    while frame is not None:
        if Path(leyden.__file__).parent in Path(frame.f_code.co_filename).parents:
            yield f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
        frame = frame.f_back


@pytest.mark.parametrize("features", [{}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2}])
def test_few_frames_stand_between_fit_and_the_step(features: dict[str, Any]) -> None:
    found: list[list[str]] = []

    class Looks(Net):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            found.append(list(ours(sys._getframe())))
            return super().training_step(batch, batch_idx)

    kit.fit(Looks(), batches(4), **features)
    assert max(map(len, found)) <= FRAMES, max(found, key=len)
