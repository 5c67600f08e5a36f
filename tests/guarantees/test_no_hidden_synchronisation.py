"""Guarantee 8: between flush points nothing reads a tensor, so an accelerator is never waited for.

A flush point is where values that wait are read together, because somebody needs numbers then: when the losses of the last
50 batches are checked, when a logger writes its file, when the bar draws, when a checkpoint is written, and at the end of an
epoch or a validation. What the optimizer itself reads in a hand-written loop is no business of ours and is subtracted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
    TQDMProgressBar,
)
from leyden.loggers import CSVLogger, TensorBoardLogger
from leyden.state.losses import KEPT as LOSSES_KEPT

BATCHES = 120
READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "is_nonzero", "nonzero", "equal"}
"""Ways of a Python program to wait for a device."""


class Reads:
    """Counts, for each batch, what waits for a device: calls by name, scalars read, and copies between devices."""

    def __init__(self) -> None:
        self.batch = -1
        self.calls: Counter[int] = Counter()
        self.who: dict[int, list[str]] = {}
        self._by_name = _ByName(self)
        self._by_operation = _ByOperation(self)

    def __enter__(self) -> Reads:
        self._by_name.__enter__()
        self._by_operation.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._by_operation.__exit__(*error)
        self._by_name.__exit__(*error)

    def note(self, what: str) -> None:
        self.calls[self.batch] += 1
        frame: Any = sys._getframe(2)
        while frame is not None and "leyden" not in frame.f_code.co_filename.split("site-packages")[-1]:
            frame = frame.f_back
        self.who.setdefault(self.batch, []).append(f"{what} in {frame.f_code.co_qualname if frame else '?'}")


class _ByName(TorchFunctionMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS:
            self.reads.note(name)
        return func(*args, **(kwargs or {}))


class _ByOperation(TorchDispatchMode):
    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero"):
            self.reads.note(name)
        copies = name == "copy_" and args[0].device != args[1].device
        if copies or (name == "_to_copy" and (kwargs or {}).get("device") not in (None, args[0].device)):
            self.reads.note("copy between devices")
        return func(*args, **(kwargs or {}))


class Clock(Callback):
    """Says which batch runs: from its start to the next one's start, so that all that follows a batch counts as its."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.reads.batch = trainer.leyden_fit.progress.batches


class Net(leyden.LightningModule):
    """Logs whatever can be logged in a step."""

    def __init__(self, optimizer: str, logs: bool = True) -> None:
        super().__init__()
        self.model = network()
        self.optimizer_name = optimizer
        self.logs = logs
        self.seen = torchmetrics.MeanSquaredError()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = loss_of(self.model, batch)
        if self.logs:
            self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True)
            self.log_dict({"a": {"b": loss * 2, "n": batch_idx}, "half": loss.half()}, on_step=True, on_epoch=True)
            for reduce in ("sum", "min", "max", "last", torch.median):
                self.log(f"by_{getattr(reduce, '__name__', reduce)}", loss.detach(), reduce_fx=reduce, on_epoch=True)
            self.log("sized", loss, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.logs:
            self.log("norm", self.model[0].weight.grad.norm())

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer_name](self.parameters())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def loss_of(model: nn.Module, batch: list[Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(2 * BATCHES, 4, generator=generator), torch.randn(2 * BATCHES, 1, generator=generator))
    return DataLoader(data, batch_size=2)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, 0.01),  # reads its count of steps on the CPU
}


def read_by_a_plain_loop(name: str) -> int:
    """What one step of a hand-written loop reads."""
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    with Reads() as reads:
        for index, batch in enumerate(batches()):
            reads.batch = index
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    (each,) = {reads.calls[index] for index in range(BATCHES)}
    return each


def reading_batches(module: Net, own: int, **keywords: Any) -> dict[int, list[str]]:
    """The batches (counted from 1, as finished) in which more was read than a plain loop reads, and by whom."""
    reads = Reads()
    callbacks = [Clock(reads), *keywords.pop("callbacks", [])]
    trainer = kit.trainer(*callbacks, **keywords)
    loader = batches()
    with reads:
        trainer.fit(module, loader)
    return {batch + 1: reads.who[batch] for batch in range(BATCHES) if reads.calls[batch] > own}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("logs", [False, True])
def test_the_step_reads_what_a_plain_loop_reads(optimizer: str, logs: bool) -> None:
    found = reading_batches(Net(optimizer, logs), read_by_a_plain_loop(optimizer))
    assert set(found) == {LOSSES_KEPT, 2 * LOSSES_KEPT, BATCHES}, found


def test_the_counters_see_what_reads() -> None:
    class Reading(Net):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            if batch_idx == 6:
                print(f"{loss.item():.3f}")
            if batch_idx == 8 and loss > 1e9:
                raise AssertionError
            return loss

    assert {7, 9} <= set(reading_batches(Reading("sgd"), 0))


def silent_bar() -> TQDMProgressBar:
    bar = TQDMProgressBar()
    bar.clock = lambda: 0.0  # it is never time to draw
    return bar


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bar": lambda folder: {"callbacks": [silent_bar()], "enable_progress_bar": True},
    "csv": lambda folder: {"logger": CSVLogger(folder, flush_logs_every_n_steps=1000), "log_every_n_steps": 1},
    "tensorboard": lambda folder: {"logger": TensorBoardLogger(folder), "log_every_n_steps": 10},
    "checkpoint": lambda folder: {
        "callbacks": [ModelCheckpoint(folder / "kept", monitor="loss_epoch")],
        "enable_checkpointing": True,
    },
    "early stopping": lambda folder: {"callbacks": [EarlyStopping("loss_epoch")]},
    "learning rate": lambda folder: {
        "callbacks": [LearningRateMonitor()],
        "logger": CSVLogger(folder, flush_logs_every_n_steps=1000),
    },
    "timer": lambda folder: {"callbacks": [Timer("00:01:00:00")]},
    "accumulation": lambda folder: {"callbacks": [GradientAccumulationScheduler({0: 3})]},
    "clipping": lambda folder: {"gradient_clip_val": 0.5},
    "bf16": lambda folder: {"precision": "bf16-mixed"},
    "unchecked loss": lambda folder: {"stop_on_nonfinite_loss": False},
}
WRITES = {"tensorboard": {50, 60, 100, 110, 120}}
"""Batches at which a part has its own flush points, beside the check of the losses."""


@pytest.mark.parametrize("name", PARTS)
def test_no_part_reads_between_flush_points(name: str, tmp_path: Path) -> None:
    own = read_by_a_plain_loop("sgd")
    found = reading_batches(Net("sgd"), own, **PARTS[name](tmp_path))
    expected = {LOSSES_KEPT, 2 * LOSSES_KEPT, BATCHES}
    assert set(found) - expected <= WRITES.get(name, set()), found


def test_everything_at_once(tmp_path: Path) -> None:
    found = reading_batches(
        Net("adamw"),
        read_by_a_plain_loop("adamw"),
        logger=[CSVLogger(tmp_path, flush_logs_every_n_steps=1000), TensorBoardLogger(tmp_path)],
        log_every_n_steps=10,
        callbacks=[
            silent_bar(),
            ModelCheckpoint(tmp_path / "kept", monitor="loss_epoch"),
            EarlyStopping("loss_epoch"),
            LearningRateMonitor(),
        ],
        enable_progress_bar=True,
        enable_checkpointing=True,
    )
    assert set(found) - {LOSSES_KEPT, 2 * LOSSES_KEPT, BATCHES} <= WRITES["tensorboard"], found


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_evaluation_reads_at_its_end_only(verb: str) -> None:
    reads = Reads()

    class Evaluated(Net):
        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            reads.batch = batch_idx
            loss = loss_of(self.model, batch)
            self.log("loss", loss, prog_bar=True, on_step=True)
            self.log_dict({"max": loss}, reduce_fx="max")
            self.seen.update(self.model(batch[0]), batch[1])
            self.log("seen", self.seen)

        test_step = validation_step

    trainer = leyden.Trainer(accelerator="cpu", logger=False, enable_progress_bar=True, callbacks=[silent_bar()])
    with reads:
        getattr(trainer, verb)(Evaluated("sgd"), batches(), verbose=False)
    assert {batch for batch in range(BATCHES) if reads.calls[batch]} <= {BATCHES - 1}, reads.who


def test_manual_optimization_reads_no_more() -> None:
    class Manual(Net):
        def __init__(self) -> None:
            super().__init__("sgd")
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            optimizer.step()
            return loss

    found = reading_batches(Manual(), read_by_a_plain_loop("sgd"))
    assert set(found) == {LOSSES_KEPT, 2 * LOSSES_KEPT, BATCHES}, found
