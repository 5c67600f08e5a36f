"""Guarantee 1: whatever watches a run, its weights end with the same bits, and they are those of a hand-written loop."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
from kit import same
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

import leyden
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from leyden.loggers import CSVLogger, TensorBoardLogger

EPOCHS = 2
Loaders = Callable[[], tuple[Any, Any]]


# -- what trains


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """Twelve samples whose values are augmented anew at each reading, by all three generators there are."""

    def __init__(self, count: int = 12, augmented: bool = True) -> None:
        made = torch.Generator().manual_seed(5)
        self.x = torch.randn(count, 4, generator=made)
        self.y = torch.randn(count, 1, generator=made)
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        if self.augmented:
            x = x + 0.1 * torch.randn(4) + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return x, self.y[index]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The same samples one after another, without a length."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        plain = Samples(augmented=False)
        return (plain[index] for index in range(len(plain)))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


class Net(leyden.LightningModule):
    """The network as a module; its validation draws from the generators too."""

    def __init__(self, logs: bool = True, example: bool = False) -> None:
        super().__init__()
        self.model = network()
        self.logs = logs
        if example:
            self.example_input_array = torch.zeros(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = loss_of(self.model, batch)
        if self.logs:
            self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        noise = torch.rand(1) + np.random.rand() + random.random()
        self.log("val_loss", loss_of(self.model, batch) + 0.0 * float(noise))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self)


# -- what is compared


def seed() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)


Bits = dict[str, Any]


def bits(model: nn.Module, optimizer: torch.optim.Optimizer) -> Bits:
    """Everything that training changes: weights, buffers, and the optimizer's state."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        state.update({f"optimizer.{index}.{name}": value for name, value in moments.items()})
    return {name: torch.as_tensor(value).clone() for name, value in state.items()}


def by_hand(make: Loaders, epochs: int = EPOCHS) -> Bits:
    """The loop that a user would write, with nothing of ours in it."""
    seed()
    model = network()
    train, _ = make()
    optimizer = optimizer_of(model)
    for _ in range(epochs):
        for batch in train:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return bits(model, optimizer)


def by_trainer(make: Loaders, folder: Path, epochs: int = EPOCHS, net: dict[str, bool] | None = None, **options: Any) -> Bits:
    """The same training by a Trainer that is watched as ``options`` say."""
    seed()
    module = Net(**(net or {}))
    train, val = make()
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
    }
    trainer = leyden.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=folder, log_every_n_steps=1, **{**quiet, **options}
    )
    trainer.fit(module, train, val)
    return bits(module.model, trainer.optimizers[0])


def in_memory(workers: int = 0, augmented: bool = True) -> Loaders:
    def make() -> tuple[Any, Any]:
        train = DataLoader(Samples(augmented=augmented), batch_size=3, shuffle=True, num_workers=workers)
        val = DataLoader(Samples(6), batch_size=3, shuffle=True, num_workers=workers)
        return train, val

    return make


@pytest.fixture(scope="module")
def reference() -> Bits:
    return by_hand(in_memory())


# -- all combinations

SWITCHES = ("validation", "sanity", "loggers", "bar", "checkpoints", "summary", "profiler")


def watched(on: set[str], folder: Path) -> dict[str, Any]:
    """Trainer keywords for the switches that are on."""
    options: dict[str, Any] = {
        "enable_progress_bar": "bar" in on,
        "enable_model_summary": "summary" in on,
        "enable_checkpointing": "checkpoints" in on,
        "num_sanity_val_steps": 2 if "sanity" in on else 0,
        "limit_val_batches": 1.0 if "validation" in on else 0,
    }
    if "loggers" in on:
        options["logger"] = [CSVLogger(folder), TensorBoardLogger(folder)]
    if "profiler" in on:
        options["profiler"] = "simple"
    return options


@pytest.mark.parametrize("chosen", list(itertools.product([False, True], repeat=len(SWITCHES))))
def test_every_combination_of_what_watches(chosen: tuple[bool, ...], reference: Bits, tmp_path: Path) -> None:
    on = {name for name, wanted in zip(SWITCHES, chosen, strict=True) if wanted}
    options = watched(on, tmp_path)
    assert same(by_trainer(in_memory(), tmp_path, net={"logs": "loggers" in on}, **options), reference)


# -- more ways to watch

EVERYTHING = set(SWITCHES)


def test_a_summary_and_a_graph_that_run_the_model_forward(reference: Bits, tmp_path: Path) -> None:
    options = {"enable_model_summary": True, "logger": TensorBoardLogger(tmp_path, log_graph=True)}
    assert same(by_trainer(in_memory(), tmp_path, net={"example": True}, **options), reference)


@pytest.mark.parametrize("interval", [1, 2, 0.25, 0.5])
def test_validation_in_mid_epoch(interval: float, reference: Bits, tmp_path: Path) -> None:
    options = watched({"validation", "sanity"}, tmp_path)
    assert same(by_trainer(in_memory(), tmp_path, val_check_interval=interval, **options), reference)


def test_several_validation_loaders(reference: Bits, tmp_path: Path) -> None:
    def make() -> tuple[Any, Any]:
        train, val = in_memory()()
        return train, [val, DataLoader(Samples(4), shuffle=True)]

    assert same(by_trainer(make, tmp_path, **watched({"validation", "sanity"}, tmp_path)), reference)


@pytest.mark.parametrize("profiler", ["advanced", "pytorch"])
def test_other_profilers(profiler: str, reference: Bits, tmp_path: Path) -> None:
    assert same(by_trainer(in_memory(), tmp_path, profiler=profiler), reference)


class Reader(leyden.Callback):
    """Looks at everything that there is to see, whenever it can, and draws nothing."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen = (
            trainer.callback_metrics,
            trainer.progress_bar_metrics,
            trainer.logged_metrics,
            trainer.estimated_stepping_batches,
        )

    on_validation_batch_end = on_train_batch_end

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.norm = sum(float(parameter.grad.norm()) for parameter in pl_module.parameters())


def test_callbacks_that_read(reference: Bits, tmp_path: Path) -> None:
    options = {**watched({"validation"}, tmp_path), "logger": CSVLogger(tmp_path), "enable_checkpointing": True}
    callbacks = [
        Reader(),
        LearningRateMonitor(logging_interval="step"),
        EarlyStopping("val_loss", patience=100),
        TQDMProgressBar(),
        ModelCheckpoint(tmp_path / "kept", monitor="train_loss", save_top_k=2, save_last=True, every_n_train_steps=1),
    ]
    options["enable_progress_bar"] = True
    assert same(by_trainer(in_memory(), tmp_path, callbacks=callbacks, **options), reference)


def test_a_validation_loader_that_draws_when_it_is_made(tmp_path: Path) -> None:
    class Drawing(Net):
        def train_dataloader(self) -> Any:
            return in_memory()()[0]

        def val_dataloader(self) -> Any:
            torch.randn(10), np.random.rand(10), random.random()
            return in_memory()()[1]

    def fit(**options: Any) -> Bits:
        seed()
        module = Drawing()
        trainer = kit.fit(module, max_epochs=2, **options)
        return bits(module.model, trainer.optimizers[0])

    without = fit(limit_val_batches=0)
    assert same(fit(num_sanity_val_steps=0), without)
    assert same(fit(num_sanity_val_steps=2), without)
    assert same(fit(num_sanity_val_steps=2, reload_dataloaders_every_n_epochs=1), without)


# -- other data

MOST_TELLING = [set(), {"validation"}, EVERYTHING]


@pytest.mark.parametrize("on", MOST_TELLING, ids=lambda on: "+".join(sorted(on)) or "nothing")
def test_worker_processes(on: set[str], tmp_path: Path) -> None:
    make = in_memory(workers=2, augmented=False)
    assert same(by_trainer(make, tmp_path, epochs=1, **watched(on, tmp_path)), by_hand(make, epochs=1))


def test_augmentation_in_worker_processes(tmp_path: Path) -> None:
    make = in_memory(workers=2)  # seeded by the batch's position, and so not as in a loop by hand
    alone = by_trainer(make, tmp_path, epochs=1)
    assert same(by_trainer(make, tmp_path, epochs=1, **watched(EVERYTHING, tmp_path)), alone)


@pytest.mark.parametrize("on", MOST_TELLING, ids=lambda on: "+".join(sorted(on)) or "nothing")
def test_a_stream_without_a_length(on: set[str], tmp_path: Path) -> None:
    def make() -> tuple[Any, Any]:
        return DataLoader(Stream(), batch_size=3), DataLoader(Stream(), batch_size=3)

    assert same(by_trainer(make, tmp_path, **watched(on, tmp_path)), by_hand(make))


@pytest.mark.parametrize("on", MOST_TELLING, ids=lambda on: "+".join(sorted(on)) or "nothing")
def test_loaders_with_generators_of_their_own(on: set[str], tmp_path: Path) -> None:
    def make() -> tuple[Any, Any]:
        mine = torch.Generator().manual_seed(3)
        weighted = torch.utils.data.WeightedRandomSampler([1.0] * 12, 9)
        return DataLoader(Samples(), batch_size=3, sampler=weighted, generator=mine), DataLoader(Samples(6), shuffle=True)

    assert same(by_trainer(make, tmp_path, **watched(on, tmp_path)), by_hand(make))


def test_a_batch_of_a_plain_list(tmp_path: Path) -> None:
    def make() -> tuple[Any, Any]:
        plain = Samples(6, augmented=False)
        return DataLoader([(plain.x[i : i + 2], plain.y[i : i + 2]) for i in (0, 2, 4)], batch_size=None), None

    assert same(by_trainer(make, tmp_path), by_hand(make))


def test_accumulation_clipping_and_a_scheduler_as_by_hand(tmp_path: Path) -> None:
    class Scheduled(Net):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]

    seed()
    model = network()
    train, _ = in_memory()()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        for index, batch in enumerate(train):
            window = 3 if index < 3 else 1  # four batches: three and one
            (loss_of(model, batch) / window).backward()
            if index in (2, 3):
                nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
        scheduler.step()
    expected = bits(model, optimizer)

    for on in (set(), EVERYTHING):
        seed()
        module = Scheduled()
        train, val = in_memory()()
        options = {"logger": False, **watched(on, tmp_path)}
        trainer = leyden.Trainer(
            accelerator="cpu",
            max_epochs=EPOCHS,
            accumulate_grad_batches=3,
            gradient_clip_val=0.1,
            default_root_dir=tmp_path,
            **options,
        )
        trainer.fit(module, train, val)
        assert same(bits(module.model, trainer.optimizers[0]), expected)


# -- generators and tables of the module's own, and of what it shares with others


class Regresses(leyden.LightningModule):
    """The steps of those whose forward is what is looked at."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))


class OwnDraws(Regresses):
    """Draws noise from generators of its own, in every stage, and makes a table in whichever forward is the first."""

    example_input_array = torch.zeros(2, 4)

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.held = {"torch": [generator], "numpy": np.random.default_rng(2), "python": random.Random(2)}
        self.table: tuple[Tensor] | None = None
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = (torch.linspace(1, 2, 4),)
        self.calls += 1
        noise = torch.randn(x.shape, generator=self.held["torch"][0]) + self.held["numpy"].normal()  # type: ignore[index,attr-defined]
        out: Tensor = self.net((x + noise + self.held["python"].random()) * self.table[0])  # type: ignore[attr-defined]
        return out

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self)


@pytest.mark.filterwarnings("ignore::leyden.errors.PossibleUserWarning")  # a run without validation is the other side
@pytest.mark.parametrize("watching", ["validation", "sanity check alone", "summary"])
def test_generators_of_their_own_are_put_back(watching: str) -> None:
    def weights(watched: bool) -> list[Tensor]:
        leyden.seed_everything(3)
        generator = torch.Generator().manual_seed(1)
        module = OwnDraws(generator)
        data = Samples(augmented=False)
        train = DataLoader(data, 4, shuffle=True, generator=generator)
        validates = watched and watching in ("validation", "sanity check alone")
        trainer = leyden.Trainer(
            max_epochs=EPOCHS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=watched and watching == "summary",
            check_val_every_n_epoch=1 if watching == "validation" else 10,
        )
        trainer.fit(module, train, DataLoader(data, 4, generator=generator) if validates else None)
        return [value.detach() for value in module.state_dict().values()]

    for with_it, without in zip(weights(True), weights(False), strict=True):
        assert torch.equal(with_it, without)


def test_another_trainer_may_validate_the_same_module_in_a_hook() -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    quiet["enable_model_summary"] = False
    data = DataLoader(Samples(augmented=False), 4)

    class Looks(leyden.Callback):
        def on_train_epoch_end(self, trainer: leyden.Trainer, module: leyden.LightningModule) -> None:
            leyden.Trainer(**quiet).validate(module, data, verbose=False)

    module = OwnDraws(torch.Generator())
    trainer = leyden.Trainer(max_epochs=2, callbacks=[Looks()], **quiet)
    trainer.fit(module, data, data)
    assert module.trainer is trainer
    assert trainer.global_step == 2 * len(data)


# -- what a forward for a look moves, at any depth


class Counter:
    """A helper of the module, which counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.tables: dict[str, Tensor] = {}


class Moves(leyden.LightningModule):
    """Whose every forward moves all kinds of attributes, on which the next depends."""

    example_input_array = torch.zeros(2, 4)

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.scale = nn.Module()
        self.scale.register_buffer("kept", torch.ones(4))
        self.scale.register_buffer("passing", torch.ones(4), persistent=False)
        self.calls = 0
        self.plain = torch.ones(4)
        self.array = np.ones(4, dtype=np.float32)
        self.counter = Counter()
        self.nested: dict[str, Any] = {
            "list": [[1.0]],
            "deque": deque([1.0], maxlen=3),
            "set": {1},
            "tuple": ([1.0], torch.ones(4)),
        }
        self.late: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.scale.kept.mul_(1.01)
        self.scale.passing = self.scale.passing * 1.01
        self.plain.mul_(1.01)
        self.array *= 1.01
        self.counter.calls += 1
        table = self.counter.tables.setdefault("first", torch.full((4,), 1.0 + self.calls / 10))
        self.nested["list"][0].append(1.0)
        self.nested["deque"].append(float(self.calls))
        self.nested["set"].add(self.calls)
        self.nested["tuple"][0].append(1.0)
        self.nested["tuple"][1].mul_(1.01)
        if self.late is None:
            self.late = nn.Linear(4, 4)
            self.register_buffer("later", torch.full((4,), float(self.calls)))
        sizes = [len(self.nested["list"][0]), len(self.nested["set"]), len(self.nested["tuple"][0]), self.counter.calls]
        factor = self.scale.kept * self.scale.passing * self.plain * torch.from_numpy(self.array) * table * self.later
        x = x * factor * self.nested["tuple"][1] * (1 + sum(sizes) / 100 + sum(self.nested["deque"]) / 100)
        out: Tensor = self.net(x + 0.1 * self.late(x).detach())
        return out

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self)


@pytest.mark.filterwarnings("ignore:The graph of Moves is not written")  # no two of its forwards are the same
@pytest.mark.parametrize("watching", ["summary", "graph"])
def test_what_a_forward_for_a_look_moves_is_put_back(watching: str, tmp_path: Path) -> None:
    def trained(watched: bool) -> dict[str, Tensor]:
        seed()
        module = Moves()
        logger = TensorBoardLogger(tmp_path, log_graph=True) if watched and watching == "graph" else False
        trainer = leyden.Trainer(
            max_epochs=EPOCHS,
            logger=logger,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=watched and watching == "summary",
        )
        trainer.fit(module, DataLoader(Samples(), 4, shuffle=True))
        assert module.calls == trainer.global_step
        return {name: value.detach() for name, value in module.state_dict().items()}

    assert same(trained(True), trained(False))


# -- caches that a validation makes


class Caches(Regresses):
    """Makes tables in its first forward, whichever that is, and keeps them in all kinds of places."""

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place
        self.net = network()
        self.held: dict[str, Any] = {}
        self.by_size: dict[int, list[Tensor]] = {}
        self.helper = Counter()

    def table(self) -> Tensor:
        if "table" not in self.held:
            table = torch.linspace(1, 2, 4)
            if self.place == "buffer":
                self.register_buffer("kept", table, persistent=False)
            elif self.place == "helper":
                self.helper.tables["first"] = table
            elif self.place == "list":
                self.by_size[4] = [table]
            elif self.place == "parameter":
                self.weight = nn.Parameter(table, requires_grad=False)
            self.held["table"] = (table, [table.view(1, 4), table[1:]])
        kept: dict[str, Callable[[], Tensor]] = {
            "buffer": lambda: self.kept,
            "helper": lambda: self.helper.tables["first"],
            "list": lambda: self.by_size[4][0],
            "parameter": lambda: self.weight,
            "tuple": lambda: self.held["table"][0],
            "view": lambda: self.held["table"][1][0][0],
        }
        return kept[self.place]()

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones((), requires_grad=True)
        out: Tensor = self.net(x * (self.table() * scale))
        return out

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore::leyden.errors.PossibleUserWarning")  # a run without validation is the other side
@pytest.mark.parametrize("place", ["buffer", "helper", "list", "parameter", "tuple", "view"])
@pytest.mark.parametrize("by", ["sanity check", "validate in a hook", "validate before"])
def test_a_cache_that_watching_made_can_be_trained_with(by: str, place: str) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    quiet["enable_model_summary"] = False
    val = DataLoader(Samples(augmented=False), 4, generator=torch.Generator())  # else a verb of its own draws from the process's

    class Looks(leyden.Callback):
        def on_train_start(self, trainer: leyden.Trainer, pl_module: leyden.LightningModule) -> None:
            leyden.Trainer(**quiet).validate(pl_module, val, verbose=False)

    def trained(watched: bool) -> dict[str, Tensor]:
        seed()
        module = Caches(place)
        if watched and by == "validate before":
            leyden.Trainer(**quiet).validate(module, val, verbose=False)
        callbacks = [Looks()] if watched and by == "validate in a hook" else []
        sanity = 1 if watched and by == "sanity check" else 0
        trainer = leyden.Trainer(max_epochs=EPOCHS, callbacks=callbacks, num_sanity_val_steps=sanity, **quiet)
        trainer.fit(module, DataLoader(Samples(augmented=False), 4, shuffle=True), val if sanity else None)
        return {name: value.detach() for name, value in module.net.state_dict().items()}

    assert same(trained(True), trained(False))


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_end", "on_validation_epoch_end", "on_train_end"])
def test_any_verb_of_another_trainer_in_any_hook(verb: str, hook: str) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    quiet["enable_model_summary"] = False
    data = DataLoader(Samples(augmented=False), 4, shuffle=True)  # the other trainer's pass draws from the process's generator

    class Net2(Net):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val_loss", loss_of(self.model, batch))

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test_loss", loss_of(self.model, batch))

        def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self(batch[0])

    class Looks(leyden.Callback):
        looks = 0

        def look(self, trainer: leyden.Trainer, module: leyden.LightningModule) -> None:
            self.looks += 1
            other = leyden.Trainer(**quiet)
            getattr(other, verb)(module, data)
            assert module.trainer is trainer
            assert other.state.finished

    setattr(Looks, hook, lambda self, trainer, module, *args: self.look(trainer, module))

    def trained(callbacks: list[Any]) -> tuple[dict[str, Tensor], list[Any]]:
        seed()
        module = Net2(logs=True)
        trainer = leyden.Trainer(max_epochs=2, callbacks=callbacks, **quiet)
        trainer.fit(module, data, data)
        assert (trainer.global_step, trainer.current_epoch) == (6, 2)
        return module.state_dict(), trainer.leyden_fit.history

    looks = Looks()
    with_it, rows = trained([looks])
    assert looks.looks
    without, plain = trained([])
    assert same(with_it, without)
    assert rows == plain


def test_loggers_and_saves_that_draw(tmp_path: Path) -> None:
    """A logger of the user's own, and what hooks do for a checkpoint, draw from the global generators as they like."""

    def draw() -> None:
        torch.rand(1), np.random.rand(), random.random()

    class Draws(CSVLogger):
        def log_metrics(self, *args: Any, **kwargs: Any) -> None:
            draw()
            super().log_metrics(*args, **kwargs)

        def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
            draw()

    class Saves(leyden.Callback):
        def on_save_checkpoint(self, *_: Any) -> None:
            draw()

    class Net(kit.Net):
        def __init__(self, rate: float = 0.5) -> None:
            super().__init__()
            self.save_hyperparameters()

    ended = []
    for watched in (False, True):
        leyden.seed_everything(0)
        net, options = Net(), dict[str, Any]()
        if watched:
            saving = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1)
            options = {"logger": Draws(tmp_path), "enable_checkpointing": True, "callbacks": [saving, Saves()]}
        data: Any = torch.ones(8, 4)
        kit.fit(net, DataLoader(data, 2, shuffle=True), DataLoader(data, 4), log_every_n_steps=1, **options)
        ended.append(kit.weights(net))
    assert same(*ended)
