"""Every callback, logger and profiler in two real processes: the numbers of one, the same exchanges on both, the first writes."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from real_processes import together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden import callbacks as known
from leyden import loggers, profilers
from leyden.tuner import Tuner


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = 0.05
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = (self(batch[0]) - 1).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", (self(batch[0]) - 1).pow(2).mean())

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        trained = [each for each in self.parameters() if each.requires_grad]
        optimizer = torch.optim.SGD(trained, self.lr, momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)}


class Writes(known.BasePredictionWriter):
    """Each process writes what it has predicted, as the documents show."""

    def __init__(self, folder: str, interval: Any) -> None:
        super().__init__(interval)
        self.folder = folder

    def write_on_batch_end(self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, *args: Any) -> None:
        self.write((batch_indices, prediction), f"{trainer.global_rank}_{batch_indices[0]}.pt")

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        self.write((batch_indices, predictions), f"{trainer.global_rank}.pt")

    def write(self, content: Any, name: str) -> None:
        with open(os.path.join(self.folder, name), "wb") as file:
            torch.save(content, file)


def told(trainer: Any, pl_module: Any) -> None:
    assert trainer.world_size in (1, 2)


def size_of(batch: Any) -> int:
    return len(batch[0])


Made = tuple[list[Any], dict[str, Any]]
CASES: dict[str, Callable[[str], Made]] = {
    "bare": lambda folder: ([], {}),
    "ModelCheckpoint": lambda folder: (
        [known.ModelCheckpoint(folder, monitor="val_loss", save_top_k=2, save_last=True)],
        {"enable_checkpointing": True},
    ),
    "EarlyStopping": lambda folder: ([known.EarlyStopping("val_loss", min_delta=10.0, patience=1)], {"max_epochs": 9}),
    "Timer": lambda folder: ([known.Timer("00:01:00:00", verbose=False)], {}),
    "LambdaCallback": lambda folder: ([known.LambdaCallback(on_train_start=told, on_fit_end=told)], {}),
    "EMAWeightAveraging": lambda folder: ([known.EMAWeightAveraging(decay=0.5)], {}),
    "WeightAveraging": lambda folder: ([known.WeightAveraging()], {}),
    "StochasticWeightAveraging": lambda folder: ([known.StochasticWeightAveraging(0.01, swa_epoch_start=1)], {}),
    "ModelPruning": lambda folder: ([known.ModelPruning("l1_unstructured", amount=0.3)], {}),
    "BackboneFinetuning": lambda folder: ([known.BackboneFinetuning(unfreeze_backbone_at_epoch=1)], {}),
    "GradientAccumulationScheduler": lambda folder: ([known.GradientAccumulationScheduler({0: 1, 1: 2})], {}),
    "LearningRateFinder": lambda folder: ([known.LearningRateFinder(num_training_steps=20, max_lr=5.0)], {}),
    "LearningRateMonitor": lambda folder: ([known.LearningRateMonitor("step")], {"logger": loggers.CSVLogger(folder)}),
    "DeviceStatsMonitor": lambda folder: ([known.DeviceStatsMonitor(cpu_stats=True)], {"logger": loggers.CSVLogger(folder)}),
    "ThroughputMonitor": lambda folder: (
        [known.ThroughputMonitor(size_of, window_size=2)],
        {"logger": loggers.CSVLogger(folder)},
    ),
    "SpikeDetection": lambda folder: (
        [known.SpikeDetection(rtol=100.0, exclude_batches_path=f"{folder}/skip.json")],
        {"default_root_dir": folder},
    ),
    "OnExceptionCheckpoint": lambda folder: ([known.OnExceptionCheckpoint(folder)], {}),
    "ModelSummary": lambda folder: ([known.ModelSummary(max_depth=2)], {"enable_model_summary": True}),
    "RichModelSummary": lambda folder: ([known.RichModelSummary()], {"enable_model_summary": True}),
    "TQDMProgressBar": lambda folder: ([known.TQDMProgressBar()], {"enable_progress_bar": True}),
    "RichProgressBar": lambda folder: ([known.RichProgressBar()], {"enable_progress_bar": True}),
    "predictions, a batch": lambda folder: ([Writes(folder, "batch")], {}),
    "predictions, an epoch": lambda folder: ([Writes(folder, "epoch")], {}),
    "CSVLogger": lambda folder: ([], {"logger": loggers.CSVLogger(folder)}),
    "TensorBoardLogger": lambda folder: ([], {"logger": loggers.TensorBoardLogger(folder)}),
    "SimpleProfiler": lambda folder: ([], {"profiler": profilers.SimpleProfiler(folder, "times")}),
    "AdvancedProfiler": lambda folder: ([], {"profiler": profilers.AdvancedProfiler(folder, "times")}),
}
SERVICES: dict[str, Callable[[str], Made]] = {
    "PyTorchProfiler": lambda folder: ([], {"profiler": profilers.PyTorchProfiler(folder, "times", export_to_chrome=False)}),
    "WandbLogger": lambda folder: ([], {"logger": loggers.WandbLogger(save_dir=folder, offline=True)}),
    "MLFlowLogger": lambda folder: ([], {"logger": loggers.MLFlowLogger(tracking_uri=f"sqlite:///{folder}/mlflow.db")}),
}
BY_EACH = ("predictions, a batch", "predictions, an epoch", "SimpleProfiler", "AdvancedProfiler", "PyTorchProfiler")
"""What each process writes files for, by its rank."""


class Noted:
    """What this process exchanges through Python, by name, and which files of ``folder`` it opens to write."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.exchanges: list[str] = []
        self.files: set[str] = set()
        for name in ("all_reduce", "broadcast", "broadcast_object_list", "all_gather", "all_gather_object", "barrier"):
            setattr(dist, name, partial(self.exchange, name, getattr(dist, name)))
        sys.addaudithook(self.hear)

    def exchange(self, name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.exchanges.append(name)
        return function(*args, **kwargs)

    def hear(self, event: str, args: Any) -> None:
        if event == "open" and isinstance(args[0], str | os.PathLike) and isinstance(args[2], int):
            path = os.path.abspath(os.fspath(args[0]))
            if args[2] & (os.O_WRONLY | os.O_RDWR) and path.startswith(self.folder):
                self.files.add(path)


def in_turn(devices: int, size: int, folder: str, only: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    noted = Noted(os.path.abspath(folder)) if devices > 1 else None
    for name, make in ({only: SERVICES[only]} if only else CASES).items():
        place = f"{folder}/{name}"
        os.makedirs(place, exist_ok=True)
        torch.manual_seed(3)
        made, options = make(place)
        if noted is not None:
            noted.exchanges, noted.files = [], set()
        net = Net()
        run = kit.trainer(*made, devices=devices, **{"max_epochs": 2, "log_every_n_steps": 1, **options})
        run.fit(net, samples(16, size), samples(6, size // 2))
        metrics = {key: float(value) for key, value in run.callback_metrics.items()}
        if name.startswith("predictions"):
            run.predict(net, samples(7, 2), return_predictions=False)
        words = [] if noted is None else noted.exchanges
        files = set() if noted is None else noted.files
        found[name] = kit.weights(net), metrics, words, {os.path.relpath(each, place) for each in files}, run.current_epoch
    return found


def samples(count: int, size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(3.0 * count).view(count, 3) / count), size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("watching"))


@pytest.fixture(scope="module")
def two(folder: str) -> list[dict[str, Any]]:
    return together(2, in_turn, 2, 2, f"{folder}/two")


@pytest.fixture(scope="module")
def one(folder: str) -> dict[str, Any]:
    return in_turn(1, 4, f"{folder}/one")


def check(name: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    (weights, metrics, _, _, epochs), first, second = one[name], two[0][name], two[1][name]
    assert kit.same(first[0], second[0])
    for key, value in weights.items():
        assert torch.allclose(first[0][key], value, atol=1e-5), key
    assert first[1] == second[1]
    assert first[1] == pytest.approx(metrics, abs=1e-5)
    assert first[4] == second[4] == epochs
    assert first[2] == second[2], "the same exchanges on both"
    if name in BY_EACH:
        assert len(first[3]) == len(second[3]) > 0
        assert not first[3] & second[3]
    else:
        assert second[3] == set(), "the first process writes"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_whoever_watches(name: str, one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    check(name, one, two)


def test_what_is_written_is_complete(two: list[dict[str, Any]], one: dict[str, Any], folder: str) -> None:
    for name in ("CSVLogger", "LearningRateMonitor", "DeviceStatsMonitor"):
        here, there = (kit.rows(f"{folder}/{count}/{name}/lightning_logs/version_0") for count in ("two", "one"))
        assert [row.keys() for row in here] == [row.keys() for row in there], name
    for here, there in zip(
        *(kit.rows(f"{folder}/{count}/CSVLogger/lightning_logs/version_0") for count in ("two", "one")), strict=True
    ):
        values = ({key: float(value) for key, value in row.items() if value} for row in (here, there))
        assert next(values) == pytest.approx(next(values), abs=1e-5)
    names = [{path.name for path in Path(folder, count, "ModelCheckpoint").iterdir()} for count in ("two", "one")]
    assert names[0] == names[1]
    seen = [torch.load(path) for path in Path(folder, "two", "predictions, a batch").iterdir()]
    assert sorted(number for indices, _ in seen for number in indices) == list(range(7))


@pytest.mark.distributed
@pytest.mark.parametrize("name", SERVICES)
def test_services_and_what_is_slow_to_load(name: str, folder: str) -> None:
    if any(importlib.util.find_spec(package) is None for package in ("wandb", "mlflow")):
        pytest.skip("needs wandb and mlflow")
    one, two = in_turn(1, 4, f"{folder}/one {name}", name), together(2, in_turn, 2, 2, f"{folder}/two {name}", name)
    check(name, one, two)


class Rated(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lr = 0.1

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.lr)


def searched(strategy: str) -> tuple[Any, float, int, list[float]]:
    """What the tuner suggests, the rate that the module has then, how many were tried, and by how much weights have changed."""
    torch.manual_seed(1)
    module, run = Rated(), kit.trainer(devices=2, strategy=strategy)
    before = [value.clone() for value in module.state_dict().values()]
    found: Any = Tuner(run).lr_find(module, samples(64, 2), num_training=20, max_lr=5.0, early_stop_threshold=None)
    now = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in module.state_dict().values()]
    changes = [float((value - old).abs().max()) for value, old in zip(now, before, strict=True)]
    return found.suggestion(), module.lr, len(found.results["lr"]), changes


def test_a_search_of_the_tuner() -> None:
    first, second = together(2, searched, "ddp")
    assert first == second == searched("ddp_fork")
    assert first[0] == first[1] != 0.1
    assert first[2] == 20
    assert first[3] == [0.0] * len(first[3])


def test_a_search_of_the_tuner_among_shards() -> None:
    first, second = together(2, searched, "fsdp")
    assert first == second
    (whole, _) = together(2, searched, "ddp")
    assert first == (pytest.approx(whole[0]), pytest.approx(whole[1]), *whole[2:])
