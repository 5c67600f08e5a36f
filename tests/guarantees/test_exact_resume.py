"""Guarantee 2, in one process: a run that goes on from any of its checkpoints ends as the uninterrupted run, bit by bit."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kit import Crash, Unsynced, differences, weights
from together_job import BreaksOff
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

import leyden
from leyden.callbacks import Checkpoint, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.optimizer_states import scheduler_state
from leyden.checkpoint.random_state import random_state
from leyden.data.combined import CombinedLoader
from leyden.errors import LeydenWarning
from leyden.loggers import CSVLogger
from leyden.testing import Recorder

SEED, OTHER_SEED = 5, 99


# -- data


def drawn() -> float:
    """A random number to which every generator of the process contributes."""
    return float(torch.randn(())) + random.random() + float(np.random.rand())


class Samples(Dataset[Tensor]):
    """Eleven samples, augmented anew at each reading."""

    def __init__(self, count: int = 11) -> None:
        self.x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index] + 0.1 * drawn()


class Stream(IterableDataset[Tensor]):
    """The same as a stream; each worker reads its share."""

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, 11, step):
            yield torch.full((4,), index / 10) + 0.1 * drawn()


class StreamInOrder(Stream):
    """Not augmented: nobody restores what workers of a loader that keeps its own state have drawn."""

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (torch.full((4,), index / 10) for index in range(first, 11, step))


class StreamWithLen(Stream):
    def __len__(self) -> int:
        return 11


class StreamWithState(Stream):
    """Goes on where ``load_state_dict`` puts it: what it has drawn until then is not drawn again."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(4)
        self.next = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.next < 11:
            self.next += 1
            yield torch.randn(4, generator=self.generator)
        self.next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]
        self.generator.set_state(state["generator"])


class OwnGenerator(Sampler[int]):
    """Draws an epoch's order from a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)

    def __len__(self) -> int:
        return 11

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(11, generator=self.generator).tolist())


class ByNumpy(OwnGenerator):
    """Draws an epoch's order from NumPy's global generator."""

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.permutation(11).tolist())


class ByEpoch(OwnGenerator):
    """Knows the order from the number of the epoch, as a distributed sampler does."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(11, generator=torch.Generator().manual_seed(self.epoch)).tolist())


class WithState(OwnGenerator):
    """Draws as it goes, and can tell where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    def __iter__(self) -> Iterator[int]:
        while self.given < 11:
            self.given += 1
            yield int(torch.randint(11, (), generator=self.generator))
        self.given = 0

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]
        self.generator.set_state(state["generator"])


class LazyOwnGenerator(OwnGenerator):
    """Draws each index when it is asked for, from a generator of its own."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(11):
            yield int(torch.randint(11, (), generator=self.generator))


class PlainSampler:
    """Inherits from nothing."""

    def __init__(self) -> None:
        self.random = random.Random(3)

    def __len__(self) -> int:
        return 11

    def __iter__(self) -> Iterator[int]:
        order = list(range(11))
        self.random.shuffle(order)
        return iter(order)


class BatchesOfTwoSizes(Sampler[list[int]]):
    """A batch sampler of a user's own, with batches of two sizes from a generator of its own."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(2)

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        order = self.generator.permutation(11).tolist()
        for first, last in ((0, 2), (2, 6), (6, 8), (8, 11)):
            yield order[first:last]


class LoaderOfOwnKind(DataLoader[Any]):
    """A subclass with arguments of its own, which nobody could rebuild."""

    def __init__(self, dataset: Dataset[Any], scale: float, **keywords: Any) -> None:
        super().__init__(dataset, **keywords)
        self.scale = scale

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield batch * self.scale + 0.01 * drawn()


class LoaderWithState:
    """No DataLoader: iterable, and stateful."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(12)
        self.next = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Tensor]:
        self.next %= 4
        while self.next < 4:
            self.next += 1
            yield torch.randn(3, 4, generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]
        self.generator.set_state(state["generator"])


class PlainIterable:
    """No DataLoader: can be iterated again, and draws as it goes."""

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.randn(3, 4) for _ in range(4))


def loader(dataset: Any = None, **keywords: Any) -> DataLoader[Any]:
    keywords = {"batch_size": 3, **keywords}
    return DataLoader(Samples() if dataset is None else dataset, **keywords)


def shuffled(**keywords: Any) -> DataLoader[Any]:
    return loader(shuffle=True, **keywords)


def stateful(dataset: Any, **keywords: Any) -> Any:
    """torchdata's loader, which keeps its position by itself."""
    module = pytest.importorskip("torchdata.stateful_dataloader")
    return module.StatefulDataLoader(dataset, batch_size=3, **keywords)


def validation() -> Any:
    return loader(Samples(5), batch_size=2, shuffle=True)


# -- modules


class Net(leyden.LightningModule):
    """Dropout, batch norm, a step-wise scheduler, and metrics of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 1))
        self.seen: list[Tensor] = []

    def loss(self, batch: Any) -> Tensor:
        if not isinstance(batch, Tensor):
            parts = batch.values() if isinstance(batch, Mapping) else batch
            batch = torch.cat([part for part in parts if part is not None])
        if batch.dim() == 1:
            batch = torch.stack([batch, batch + 1])
        self.seen.append(batch)
        return (self.model(batch) - 1).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(self.seen[-1]))
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch) + 0.01 * drawn(), batch_size=len(self.seen[-1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


# -- a run, and a run that goes on


class SaveEverywhere(Checkpoint):
    """Saves wherever a run may be cut, and remembers how much of the trace was written by then."""

    def __init__(self, folder: Path, trace: list[str], active: bool) -> None:
        self.folder, self.trace, self.active = folder, trace, active
        self.saved: list[tuple[str, int]] = []

    def save(self, trainer: leyden.Trainer, where: str, mark: int) -> None:
        if not self.active:
            return
        path = str(self.folder / f"{len(self.saved)}-{where}.ckpt")
        trainer.save_checkpoint(path)
        self.saved.append((path, mark))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "train_start", len(self.trace))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.save(trainer, "train_batch", len(self.trace))

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, "validation_batch", len(self.trace))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.save(trainer, "validation_end", len(self.trace))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "epoch_end", len(self.trace))


class AtTheEnd(leyden.Callback):
    """What stands when training ends, before anything is let go of."""

    def __init__(self) -> None:
        self.random: dict[str, Any] = {}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.random = random_state()


@dataclass
class Case:
    """A run to be cut."""

    train: Callable[[], Any] = shuffled
    val: Callable[[], Any] | None = validation
    net: Callable[[], Any] = Net
    callbacks: Callable[[], list[Any]] = list
    options: dict[str, Any] = field(default_factory=dict)
    every: int = 3  # of the places to cut: one in so many is tried, with another beginning in the next case
    warned: str | None = None  # what is said once, before training
    seeded: bool = False  # seed_everything(workers=True)


def run(case: Case, folder: Path, name: str, *, ckpt_path: str | None = None, save: bool = False) -> dict[str, Any]:
    """One fit, from the beginning or from ``ckpt_path``, and all that can be seen of it afterwards."""
    leyden.seed_everything(SEED if ckpt_path is None else OTHER_SEED, workers=case.seeded)
    logger = CSVLogger(folder, name="logs", version=name)
    recorder, end = Recorder(), AtTheEnd()
    writer = SaveEverywhere(folder, recorder.names, save)
    own = case.callbacks()
    callbacks = [*own, recorder, end, writer]
    options = {"max_epochs": 2, "log_every_n_steps": 1, "num_sanity_val_steps": 1, **case.options}
    trainer = leyden.Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        plugins=[TorchCheckpointIO(Unsynced())],
        **options,
    )
    net = case.net()
    val = None if case.val is None else case.val()
    with contextlib.ExitStack() as stack:
        if case.warned is not None:
            stack.enter_context(pytest.warns(LeydenWarning, match=case.warned))
        result = trainer.fit(net, case.train(), val, ckpt_path=ckpt_path)
    metrics = Path(logger.log_dir, "metrics.csv")
    return {
        "weights": weights(net),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [scheduler_state(each.scheduler) for each in trainer.lr_scheduler_configs],
        "rows": metrics.read_text() if metrics.exists() else None,
        "history": result.history,
        "status": (result.status, result.reason, result.epochs, result.steps),
        "metrics": dict(trainer.callback_metrics),
        "progress": trainer.leyden_fit.progress.state_dict(),
        "callbacks": [callback.state_dict() for callback in own if not isinstance(callback, ModelCheckpoint)],
        "stepping": trainer.estimated_stepping_batches,
        "random": end.random,
        "own": getattr(net, "own_state", dict)(),
        "trace": recorder.names,
        "seen": net.seen,
        "saved": writer.saved,
    }


SHOWN = (
    *("weights", "optimizers", "schedulers", "rows", "history", "status", "metrics", "progress", "callbacks", "stepping"),
    *("random", "own"),
)


def compared(full: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [each for key in SHOWN for each in differences(full[key], other[key], key)]


def told(trace: list[str]) -> list[str]:
    """The hooks of a trace, without those that belong to a save."""
    return [name for name in trace if name not in ("on_save_checkpoint", "on_load_checkpoint")]


def check(case: Case, first: int, folder: Path) -> None:
    """The run comes out the same from every checkpoint on, and doing so it calls the same hooks on the same batches."""
    full = run(case, folder, "full", save=True)
    assert compared(full, run(case, folder, "unsaved")) == []  # saving changes nothing
    assert full["saved"]
    for path, mark in full["saved"][first % case.every :: case.every]:
        name = Path(path).stem
        resumed = run(case, folder, f"from-{name}", ckpt_path=path)
        if "on_train_end" not in resumed["trace"]:  # the file was written when all epochs had ended
            resumed["random"], resumed["finished"] = full["random"], True
        assert compared(full, resumed) == [], name
        assert "on_sanity_check_start" not in resumed["trace"], name
        if "finished" in resumed:
            continue
        began = resumed["trace"].index("on_train_start") + 1
        assert told(resumed["trace"][began:]) == told(full["trace"][mark:]), name
        rest = full["seen"][len(full["seen"]) - len(resumed["seen"]) :]
        assert differences(rest, resumed["seen"]) == [], name


# -- every kind of loader


class CountsPasses(Sampler[int]):
    """Seeds itself by a count of its own passes."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 11

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return iter(torch.randperm(11, generator=torch.Generator().manual_seed(self.passes)).tolist())


def _same_sampler() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Training's loader and validation's, which share a sampler in each run."""
    shared: list[CountsPasses] = []

    def val() -> Any:  # it is made first
        shared[:] = [CountsPasses()]
        return loader(sampler=shared[0])

    return lambda: loader(sampler=shared[0]), val


LOADERS: dict[str, Case] = {
    "shuffled": Case(every=1),
    "in order": Case(loader),
    "drop_last": Case(lambda: shuffled(drop_last=True)),
    "workers": Case(lambda: shuffled(num_workers=2), every=4),
    "persistent workers": Case(lambda: shuffled(num_workers=2, persistent_workers=True), every=4),
    "one worker in order": Case(lambda: loader(num_workers=1), every=5),
    "own generator": Case(lambda: shuffled(generator=torch.Generator().manual_seed(3))),
    "own generator and workers": Case(lambda: shuffled(generator=torch.Generator().manual_seed(3), num_workers=2), every=4),
    "without batches": Case(lambda: DataLoader(Samples(), batch_size=None, shuffle=True)),
    "weighted": Case(lambda: loader(sampler=WeightedRandomSampler(torch.arange(1.0, 12.0), 11))),
    "weighted by a generator": Case(
        lambda: loader(sampler=WeightedRandomSampler(torch.arange(1.0, 12.0), 11, generator=torch.Generator().manual_seed(8)))
    ),
    "subset": Case(lambda: loader(sampler=SubsetRandomSampler(range(2, 10)))),
    "with replacement": Case(lambda: loader(sampler=RandomSampler(Samples(), replacement=True, num_samples=50)), every=5),
    "sampler with a generator": Case(lambda: loader(sampler=OwnGenerator())),
    "sampler with a generator and workers": Case(lambda: loader(sampler=OwnGenerator(), num_workers=2), every=4),
    "sampler by NumPy": Case(lambda: loader(sampler=ByNumpy())),
    "sampler by NumPy and workers": Case(lambda: loader(sampler=ByNumpy(), num_workers=2), every=4),
    "sampler by epoch": Case(lambda: loader(sampler=ByEpoch())),
    "sampler by epoch and persistent workers": Case(
        lambda: loader(sampler=ByEpoch(), num_workers=2, persistent_workers=True), every=4
    ),
    "sampler with state": Case(lambda: loader(sampler=WithState())),
    "sampler that draws as it goes": Case(lambda: loader(sampler=LazyOwnGenerator())),
    "sampler that draws as it goes and workers": Case(lambda: loader(sampler=LazyOwnGenerator(), num_workers=2), every=4),
    "sampler of no class": Case(lambda: loader(sampler=PlainSampler())),
    "batch sampler": Case(lambda: DataLoader(Samples(), batch_sampler=BatchesOfTwoSizes())),
    "batch sampler and workers": Case(lambda: DataLoader(Samples(), batch_sampler=BatchesOfTwoSizes(), num_workers=2), every=4),
    "batch sampler of a sampler": Case(lambda: DataLoader(Samples(), batch_sampler=BatchSampler(OwnGenerator(), 4, False))),
    "list as batch sampler": Case(lambda: DataLoader(Samples(), batch_sampler=[[0, 1], [2, 3, 4], [5, 9]])),
    "own kind": Case(lambda: LoaderOfOwnKind(Samples(), 0.5, batch_size=3, shuffle=True)),
    "own kind and workers": Case(lambda: LoaderOfOwnKind(Samples(), 0.5, batch_size=3, shuffle=True, num_workers=2), every=4),
    "stream": Case(lambda: loader(Stream()), every=1),
    "stream with a length": Case(lambda: loader(StreamWithLen())),
    "stream and workers": Case(lambda: loader(Stream(), num_workers=2), every=4),
    "stream with state": Case(lambda: loader(StreamWithState())),
    "stream without batches": Case(lambda: DataLoader(Stream(), batch_size=None)),
    "loader with state": Case(LoaderWithState),
    "plain iterable": Case(PlainIterable),
    "list of batches": Case(lambda: DataLoader([torch.ones(3, 4) * i for i in range(4)], batch_size=None, shuffle=True)),
    "two side by side": Case(lambda: [shuffled(), loader(Samples(7), batch_size=2, shuffle=True)], every=1),
    "by name": Case(lambda: {"a": shuffled(), "b": loader(Samples(4), batch_size=2, shuffle=True)}),
    "nested": Case(lambda: {"a": shuffled(), "b": loader(sampler=OwnGenerator(), batch_size=2)}),
    "side by side with workers": Case(lambda: [shuffled(num_workers=2), loader(Samples(4), shuffle=True)], every=5),
    "min_size": Case(lambda: CombinedLoader([shuffled(), loader(Samples(7), shuffle=True)], "min_size")),
    "max_size": Case(lambda: CombinedLoader({"a": shuffled(), "b": loader(Samples(7), shuffle=True)}, "max_size")),
    "max_size_cycle": Case(lambda: CombinedLoader([shuffled(), loader(Samples(5), shuffle=True)], "max_size_cycle")),
    "sequential": Case(lambda: CombinedLoader([shuffled(), loader(Samples(5), shuffle=True)], "sequential")),
    "cycling streams": Case(lambda: CombinedLoader([loader(Stream()), loader(Samples(5), shuffle=True)], "max_size_cycle")),
    "sequential streams": Case(lambda: CombinedLoader([loader(Stream()), shuffled()], "sequential")),
    "several validation loaders": Case(val=lambda: [validation(), loader(Samples(4), shuffle=True)]),
    "validation with a generator": Case(
        val=lambda: loader(Samples(5), batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(6))
    ),
    "validation by a sampler with a generator": Case(val=lambda: loader(sampler=OwnGenerator())),
    "validation with workers": Case(val=lambda: loader(Samples(5), batch_size=2, shuffle=True, num_workers=1), every=5),
    "torchdata": Case(lambda: stateful(Samples(), shuffle=True)),
    "torchdata and workers": Case(lambda: stateful(Samples(), shuffle=True, num_workers=2), every=4),
    "torchdata, a stream": Case(lambda: stateful(Stream())),
    "torchdata, a stream with state": Case(lambda: stateful(StreamWithState())),
    "torchdata, a stream and workers": Case(lambda: stateful(StreamInOrder(), num_workers=2), every=4),
    "torchdata, side by side": Case(lambda: [stateful(Samples(), shuffle=True), shuffled()]),
    "a sampler that counts": Case(lambda: loader(sampler=CountsPasses())),
    "a sampler that counts, and workers": Case(lambda: loader(sampler=CountsPasses(), num_workers=2), every=4),
    "samplers that count, side by side": Case(lambda: {"a": loader(sampler=CountsPasses()), "b": loader(sampler=CountsPasses())}),
    "validation by a sampler that counts": Case(val=lambda: loader(sampler=CountsPasses())),
    "one sampler that counts for both": Case(*_same_sampler()),
    "no validation": Case(val=None, warned="no validation runs"),
    "seeded": Case(seeded=True),
    "seeded workers": Case(lambda: shuffled(num_workers=2), seeded=True, every=4),
}


@pytest.mark.parametrize("name", LOADERS)
def test_from_every_checkpoint_on(name: str, tmp_path: Path) -> None:
    check(LOADERS[name], list(LOADERS).index(name), tmp_path)


# -- every feature of training


class ByEpochOnly(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


class OneCycle(Net):
    """Asks for the number of steps of the whole training."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps), "interval": "step"}
        ]


class Plateau(Net):
    interval, monitor = "epoch", "val_loss"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        config = {"scheduler": scheduler, "monitor": self.monitor, "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": config}


class PlateauByStep(Plateau):
    interval, monitor = "step", "loss"


class WithoutOptimizer(Net):
    def configure_optimizers(self) -> None:
        return None


class LBFGS(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class SkipsBatches(Net):
    """Returns no loss for every third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class Manual(Net):
    """Steps every third batch by hand, counted across epochs: gradients wait in between."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("count", torch.tensor(0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        self.count += 1
        if int(self.count) % 3 == 0:
            optimizer = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()
            self.lr_schedulers().step()


class TwoOptimizers(Net):
    """A generator and a discriminator, with an optimizer and a scheduler each."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Linear(2, 4)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        made, judge = self.optimizers()
        fake = self.generator(torch.randn(len(batch), 2))
        self.toggle_optimizer(made)
        loss = self.loss(fake)
        self.log("made", loss, on_step=True, on_epoch=True)
        self.manual_backward(loss)
        made.step()
        made.zero_grad()
        self.untoggle_optimizer(made)
        if batch_idx % 2 == 0:
            judged = self.loss(batch) + (self.model(fake.detach()) + 1).square().mean()
            self.log("judged", judged)
            judge.zero_grad()
            self.manual_backward(judged)
            judge.step()
            self.lr_schedulers()[1].step()

    def configure_optimizers(self) -> Any:
        made = torch.optim.Adam(self.generator.parameters(), lr=0.02)
        judge = torch.optim.SGD(self.model.parameters(), lr=0.02)
        schedulers = [torch.optim.lr_scheduler.StepLR(each, 2) for each in (made, judge)]
        return [made, judge], schedulers


class Measures(Net):
    """torchmetrics objects: logged, logged as a value, and never logged."""

    def __init__(self) -> None:
        super().__init__()
        from torchmetrics import MeanMetric, MetricCollection, SumMetric

        self.train_mean, self.val_mean, self.never, self.by_hand = MeanMetric(), MeanMetric(), SumMetric(), MeanMetric()
        self.several = MetricCollection({"mean": MeanMetric(), "sum": SumMetric()})

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.train_mean(loss.detach())
        self.log("train_mean", self.train_mean, on_step=True, on_epoch=True)
        self.never.update(loss.detach())
        self.several.update(loss.detach())
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("never", self.never.compute())

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        value = self.loss(batch)
        self.val_mean.update(value)
        self.log("val_mean", self.val_mean)
        self.by_hand.update(value)

    def on_validation_epoch_end(self) -> None:
        self.log("by_hand", self.by_hand.compute())
        self.by_hand.reset()


def product(values: Any) -> Tensor:
    return torch.as_tensor(values).prod()


class LogsEverywhere(Net):
    def on_train_epoch_start(self) -> None:
        self.log("began", float(self.current_epoch))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("index", float(batch_idx), on_step=False, on_epoch=True, reduce_fx="sum")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("least", loss, on_step=False, on_epoch=True, reduce_fx="min")
        self.log("total", loss, on_step=True, on_epoch=True, reduce_fx="sum")
        self.log("own", loss.detach(), on_step=False, on_epoch=True, reduce_fx=product)
        self.log("torchs", loss.detach(), on_step=False, on_epoch=True, reduce_fx=torch.max)
        self.log("samples", len(batch), on_step=False, on_epoch=True, reduce_fx="sum")
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("after", outputs["loss"], on_step=True, on_epoch=True, batch_size=len(batch))

    def on_train_epoch_end(self) -> None:
        self.log("noise", torch.randn(()))


class Classic(leyden.LightningModule):
    """The dialect of 2020: dicts and epoch ends."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.seen: list[Tensor] = []
        self.ends: list[int] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch)
        loss = self.model(batch).square().mean()
        return {"loss": loss, "log": {"train_loss": loss}, "size": len(batch)}

    def training_epoch_end(self, outputs: Any) -> Any:
        mean = torch.stack([each["loss"] for each in outputs]).mean()
        return {"log": {"mean_loss": mean, "samples": sum(each["size"] for each in outputs)}}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(batch)
        return {"val_loss": self.model(batch).square().mean()}

    def validation_epoch_end(self, outputs: Any) -> Any:
        mean = torch.stack([each["val_loss"] for each in outputs]).mean()
        return {"val_loss": mean, "log": {"val_loss": mean, "count": len(outputs)}}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Thaws(Net):
    """Thaws its layers on the way, with groups of their own, and trains on a buffer that is not persistent."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(4), persistent=False)
        self.first = self.model[0]
        self.first.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.centre.mul_(0.9).add_(batch.mean(0))
        return super().training_step(batch - self.centre, batch_idx)

    def on_train_epoch_start(self) -> None:
        optimizer: Any = self.optimizers(False)
        if self.current_epoch == 1:
            self.first.requires_grad_(True)
            optimizer.add_param_group({"params": list(self.first.parameters()), "lr": 0.001})

    def configure_optimizers(self) -> Any:
        late = set(map(id, self.first.parameters()))
        own = [parameter for parameter in self.parameters() if id(parameter) not in late]
        optimizer = torch.optim.Adam(own or [nn.Parameter(torch.zeros(1))], lr=0.02)
        return [optimizer], [
            {"scheduler": Around(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.8)), "interval": "step"}
        ]


class Around(torch.optim.lr_scheduler.LRScheduler):
    """A scheduler that steps another, and knows the optimizer by another name."""

    def __init__(self, optimizer: Any, inner: Any) -> None:
        self.inner, self.others = inner, [optimizer]
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        return [group["lr"] for group in self.others[0].param_groups]

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if self.last_epoch:
            self.inner.step()


class SplitsAnew(Net):
    """Splits its data at random whenever a loader is made."""

    def train_dataloader(self) -> Any:
        return loader(torch.utils.data.random_split(Samples(), [9, 2])[0], shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(torch.utils.data.random_split(Samples(), [5, 6])[0])


class OwnGenerators(Net):
    """Draws from generators of its own in training, in validation, and wherever they hide."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.Generator().manual_seed(11)
        self.by_numpy = {"here": np.random.default_rng(12)}
        self.old = [np.random.RandomState(13), random.Random(14)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        shift = torch.randn((), generator=self.noise) + self.by_numpy["here"].normal() + self.old[0].normal()
        return super().training_step(batch + 0.1 * (shift.float() + self.old[1].random()), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch + 0.1 * torch.randn((), generator=self.noise), batch_idx)

    def own_state(self) -> dict[str, Any]:
        return {"noise": self.noise.get_state(), "by_numpy": self.by_numpy["here"].bit_generator.state}


class KeepsOwnState(Net):
    """What a module counts by itself goes through its own hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.counted += 1
        return super().training_step(batch, batch_idx) * (1 + self.counted)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["counted"] = self.counted

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.counted = checkpoint["counted"]


class Counts(leyden.Callback):
    """A callback with a state, and one kept by the checkpoint hooks."""

    def __init__(self) -> None:
        self.batches: dict[str, int] = {"all": 0}
        self.epochs = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches["all"] += 1
        pl_module.log("counted", float(self.batches["all"]))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs += 1
        pl_module.log("epochs", float(self.epochs))

    def state_dict(self) -> dict[str, Any]:
        return {"batches": dict(self.batches)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = dict(state_dict["batches"])

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["epochs_counted"] = self.epochs

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.epochs = checkpoint["epochs_counted"]


class Draws(leyden.Callback):
    """Draws from the generators around every epoch and validation."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("before", drawn())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("behind", drawn())

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("inside", drawn())


class EndsTheEpoch(leyden.Callback):
    """Skips what is left of the first epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        return -1 if trainer.current_epoch == 0 and batch_idx == 2 else None


def stream() -> Any:
    return loader(Stream())


FEATURES: dict[str, Case] = {
    "windows of two": Case(options={"accumulate_grad_batches": 2}),
    "windows of three": Case(options={"accumulate_grad_batches": 3}, every=1),
    "windows over a stream": Case(stream, options={"accumulate_grad_batches": 3}),
    "windows by epoch": Case(options={"accumulate_grad_batches": {0: 1, 1: 3}, "max_epochs": 3}),
    "windows with skipped batches": Case(net=SkipsBatches, options={"accumulate_grad_batches": 2}),
    "clipping": Case(options={"gradient_clip_val": 0.1, "accumulate_grad_batches": 2}),
    "validation every 2 batches": Case(options={"val_check_interval": 2}, every=1),
    "validation every quarter": Case(options={"val_check_interval": 0.25, "accumulate_grad_batches": 3}),
    "validation across epochs": Case(options={"val_check_interval": 3, "check_val_every_n_epoch": None}),
    "validation in the middle of a stream": Case(stream, options={"val_check_interval": 3}),
    "validation every other epoch": Case(options={"check_val_every_n_epoch": 2, "max_epochs": 3}),
    "no sanity check": Case(options={"num_sanity_val_steps": 0}),
    "limits": Case(options={"limit_train_batches": 3, "limit_val_batches": 1}),
    "a share of the batches": Case(options={"limit_train_batches": 0.5}),
    "a limited stream": Case(stream, options={"limit_train_batches": 2}),
    "a limited combination": Case(lambda: [shuffled(), stream()], options={"limit_train_batches": 3}),
    "max_steps": Case(options={"max_epochs": -1, "max_steps": 6}),
    "max_steps inside a window": Case(options={"max_epochs": -1, "max_steps": 3, "accumulate_grad_batches": 3}),
    "overfit": Case(loader, loader, options={"overfit_batches": 2}),
    "loaders made anew": Case(options={"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3}),
    "loaders made anew every other epoch": Case(options={"reload_dataloaders_every_n_epochs": 2, "max_epochs": 4}),
    "loaders split anew": Case(
        lambda: None, lambda: None, SplitsAnew, options={"reload_dataloaders_every_n_epochs": 1, "max_epochs": 3}
    ),
    "loaders split once": Case(lambda: None, lambda: None, SplitsAnew),
    "layers thawed on the way": Case(net=Thaws, options={"max_epochs": 3}),
    "layers thawed inside a window": Case(net=Thaws, options={"accumulate_grad_batches": 3, "val_check_interval": 2}),
    "rows every third step": Case(options={"log_every_n_steps": 3, "accumulate_grad_batches": 2}),
    "epoch-wise scheduler": Case(net=ByEpochOnly),
    "one cycle": Case(net=OneCycle, options={"accumulate_grad_batches": 3}),
    "plateau": Case(net=Plateau, options={"max_epochs": 3}),
    "plateau by step": Case(net=PlateauByStep),
    "plateau with validation in between": Case(net=Plateau, options={"val_check_interval": 2}),
    "no optimizer": Case(net=WithoutOptimizer, warned="without an optimizer"),
    "LBFGS": Case(net=LBFGS),
    "skipped batches": Case(net=SkipsBatches),
    "manual": Case(net=Manual, every=1),
    "manual with validation in between": Case(net=Manual, options={"val_check_interval": 2}),
    "two optimizers": Case(net=TwoOptimizers),
    "bf16": Case(options={"precision": "bf16-mixed", "accumulate_grad_batches": 2}),
    "fp16 with a scaler": Case(options={"precision": "16-mixed", "accumulate_grad_batches": 2}),
    "manual fp16": Case(net=Manual, options={"precision": "16-mixed"}),
    "double": Case(net=lambda: Net().double(), options={"precision": "64-true"}),
    "torchmetrics": Case(net=Measures, every=1),
    "torchmetrics and validation in between": Case(net=Measures, options={"val_check_interval": 2}),
    "logs everywhere": Case(net=LogsEverywhere),
    "logs everywhere and validation in between": Case(net=LogsEverywhere, options={"val_check_interval": 2}),
    "2020": Case(net=Classic, options={"val_check_interval": 2}),
    "generators of the module": Case(net=OwnGenerators),
    "state of the module": Case(net=KeepsOwnState),
    "early stopping": Case(callbacks=lambda: [EarlyStopping("val_loss", patience=1, min_delta=10.0)], options={"max_epochs": 5}),
    "early stopping by the train loss": Case(
        callbacks=lambda: [EarlyStopping("loss_epoch", patience=0, min_delta=10.0)], options={"max_epochs": 5}
    ),
    "early stopping before min_epochs": Case(
        callbacks=lambda: [EarlyStopping("val_loss", patience=1, min_delta=10.0)],
        options={"max_epochs": 5, "min_epochs": 4},
        every=4,
    ),
    "an epoch ended early": Case(callbacks=lambda: [EndsTheEpoch()]),
    "an epoch ended early in a window": Case(callbacks=lambda: [EndsTheEpoch()], options={"accumulate_grad_batches": 4}),
    "learning rates by step": Case(callbacks=lambda: [LearningRateMonitor("step")]),
    "learning rates by epoch": Case(callbacks=lambda: [LearningRateMonitor("epoch")], net=ByEpochOnly),
    "own callback": Case(callbacks=lambda: [Counts()], every=1),
    "callbacks that draw": Case(callbacks=lambda: [Draws()]),
}


@pytest.mark.filterwarnings("ignore::leyden.errors.LegacyNotice")
@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")  # a scaler may leave out the first step
@pytest.mark.parametrize("name", FEATURES)
def test_with_every_feature(name: str, tmp_path: Path) -> None:
    check(FEATURES[name], list(FEATURES).index(name), tmp_path)


# -- broken off again and again


BREAKS = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from(["exception", "Ctrl-C", "SIGTERM", "SIGUSR1"])), min_size=1, max_size=4
)
WRITERS: dict[str, Callable[[], ModelCheckpoint]] = {
    "every step": lambda: ModelCheckpoint(every_n_train_steps=1, save_last=True),
    "every third step": lambda: ModelCheckpoint(every_n_train_steps=3),
    "best by step": lambda: ModelCheckpoint(monitor="val_loss", save_top_k=2, every_n_train_steps=2, save_last=True),
    "best by epoch": lambda: ModelCheckpoint(monitor="val_loss", save_last=True),
    "all": lambda: ModelCheckpoint(save_top_k=-1),
    "none but on signals": lambda: ModelCheckpoint(save_top_k=0),
}
RUNS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "windows": (shuffled, {"accumulate_grad_batches": 2}),
    "validation in between": (lambda: loader(sampler=OwnGenerator()), {"val_check_interval": 2}),
    "stream": (stream, {"val_check_interval": 3, "accumulate_grad_batches": 3}),
    "side by side": (lambda: [shuffled(), stream()], {}),
}


def until_finished(folder: Path, breaks: list[tuple[int, str]], writer: str, kind: str) -> dict[str, Any]:
    """The same command over and over, until no break is left and the run ends by itself."""
    folder.mkdir()
    train, options = RUNS[kind]
    for number, (at, how) in enumerate([*breaks, (0, "")]):
        leyden.seed_everything(SEED + number)
        trainer = leyden.Trainer(
            max_epochs=3,
            accelerator="cpu",
            log_every_n_steps=1,
            callbacks=[EarlyStopping("val_loss", patience=50), WRITERS[writer](), BreaksOff(at, how)],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            logger=CSVLogger(folder, name="lightning_logs"),
            plugins=[TorchCheckpointIO(Unsynced())],
            **options,
        )
        net = Net()
        if number == 0:
            first = weights(net)
        net.load_state_dict(first)  # what a run that starts afresh begins with
        leyden.seed_everything(SEED)
        with contextlib.suppress(Crash, SystemExit):
            result = trainer.fit(net, train(), validation(), ckpt_path="last")
    version = Path(trainer.logger.log_dir)
    files = {str(path.relative_to(version)) for path in version.rglob("*") if path.is_file()}
    return {
        "weights": net.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "history": result.history,
        "status": (result.status, result.epochs, result.steps),
        "rows": (version / "metrics.csv").read_text(),
        "files": sorted(name for name in files if not name.startswith("crash/")),
        "best": [(os.path.basename(path), score) for path, score in trainer.checkpoint_callback.best_k_models.items()],
    }


@cache
def uninterrupted(writer: str, kind: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return until_finished(Path(folder, "once"), [], writer, kind)


@pytest.mark.filterwarnings("ignore:ModelCheckpoint was to save by 'val_loss', which has not been logged yet")
@pytest.mark.parametrize("kind", RUNS)
@given(breaks=BREAKS, writer=st.sampled_from(sorted(WRITERS)))
@settings(max_examples=8, phases=[Phase.generate], report_multiple_bugs=False)
def test_broken_off_again_and_again(kind: str, breaks: list[tuple[int, str]], writer: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert differences(uninterrupted(writer, kind), until_finished(Path(folder, "broken"), breaks, writer, kind)) == []
