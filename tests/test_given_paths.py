"""A path that a user gives may begin with a tilde, as in a shell: at every door it stands for the user's own folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import kit
import pytest
import torch

import leyden
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint, SpikeDetection
from leyden.callbacks.spike import TrainingSpikeException
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.cli import LightningCLI
from leyden.cli.console import main as command
from leyden.demos.transformer import WikiText2
from leyden.errors import CheckpointWriteFailed, InvalidOption, MissingPackage
from leyden.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from leyden.loggers.hparams_files import load_hparams_from_yaml, save_hparams_to_tags_csv, save_hparams_to_yaml
from leyden.profilers import AdvancedProfiler, SimpleProfiler
from leyden.testing import BoringModel
from leyden.utilities.cloud_io import get_filesystem
from leyden.utilities.export import to_exported_program
from leyden.utilities.upgrade_checkpoint import main as upgrade
from leyden.utilities.weights import load_weights, save_weights


class Wide(BoringModel):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.example_input_array = torch.ones(1, 32)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, beside the one in which the test stands."""
    for name in ("home", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def run(*callbacks: Any, **options: Any) -> leyden.Trainer:
    trainer = kit.trainer(*callbacks, limit_train_batches=1, limit_val_batches=0, **options)
    trainer.fit(Wide())
    return trainer


def spike(path: str) -> None:
    losses = iter([1.0, 1000.0])

    class Spiking(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch).sum() * 0 + next(losses)

    with pytest.raises(TrainingSpikeException):
        kit.trainer(SpikeDetection(exclude_batches_path=path)).fit(Spiking())


def records(path: str) -> None:
    keeper = ModelCheckpoint("kept")
    run(keeper, enable_checkpointing=True)
    keeper.to_yaml(path)


WRITERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "Trainer.save_checkpoint": (lambda path: run().save_checkpoint(path), "x.ckpt"),
    "Trainer.default_root_dir": (lambda path: run(default_root_dir=path, enable_checkpointing=True), "checkpoints"),
    "Strategy.save_checkpoint": (lambda path: run().strategy.save_checkpoint({}, path), "x.ckpt"),
    "TorchCheckpointIO.save_checkpoint": (lambda path: TorchCheckpointIO().save_checkpoint({}, path), "x.ckpt"),
    "ModelCheckpoint.dirpath": (lambda path: run(ModelCheckpoint(path, filename="x"), enable_checkpointing=True), "x.ckpt"),
    "ModelCheckpoint.to_yaml": (records, "best.yaml"),
    "SpikeDetection": (spike, "skip.json"),
    "CSVLogger": (lambda path: run(logger=CSVLogger(path, name="", version="")), "hparams.yaml"),
    "TensorBoardLogger": (lambda path: run(logger=TensorBoardLogger(path, name="", version="")), "hparams.yaml"),
    "SimpleProfiler": (lambda path: run(profiler=SimpleProfiler(path, "x")), "fit-x.txt"),
    "AdvancedProfiler": (lambda path: run(profiler=AdvancedProfiler(path, "x")), "fit-x.txt"),
    "to_onnx": (lambda path: Wide().to_onnx(path, dynamo=False), "x.onnx"),
    "to_exported_program": (lambda path: to_exported_program(Wide(), path), "x.pt2"),
    "save_weights": (lambda path: save_weights(Wide(), path), "x.safetensors"),
    "save_hparams_to_yaml": (lambda path: save_hparams_to_yaml(path, {"width": 5}), "x.yaml"),
    "save_hparams_to_tags_csv": (lambda path: save_hparams_to_tags_csv(path, {"width": 5}), "x.csv"),
}
FOLDERS = {
    "Trainer.default_root_dir",
    "ModelCheckpoint.dirpath",
    "CSVLogger",
    "TensorBoardLogger",
    "SimpleProfiler",
    "AdvancedProfiler",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # what torch says of its former ONNX exporter
@pytest.mark.parametrize("door", WRITERS)
def test_what_is_written_under_a_tilde_stands_in_the_users_folder(door: str, home: Path) -> None:
    write, name = WRITERS[door]
    write("~" if door in FOLDERS else f"~/{name}")
    assert (home / name).exists()
    assert "~" not in os.listdir()


READERS: dict[str, Callable[[], Any]] = {
    "fit": lambda: (
        kit.fit(Wide(), limit_train_batches=1, limit_val_batches=0, ckpt_path="~/x.ckpt", max_epochs=2).global_step == 2
    ),
    "fit, a Path": lambda: (
        kit.fit(Wide(), limit_train_batches=1, limit_val_batches=0, ckpt_path=Path("~/x.ckpt"), max_epochs=2).global_step == 2
    ),
    "validate": lambda: kit.trainer(limit_val_batches=1).validate(Wide(), ckpt_path="~/x.ckpt", verbose=False) != [],
    "load_from_checkpoint": lambda: Wide.load_from_checkpoint("~/x.ckpt").hparams.width == 7,
    "hparams_file": lambda: Wide.load_from_checkpoint("~/x.ckpt", hparams_file="~/width.yaml").hparams.width == 5,
    "load_hparams_from_yaml": lambda: load_hparams_from_yaml("~/width.yaml") == {"width": 5},
    "load_weights": lambda: not any(load_weights(Wide(), "~/x.safetensors")),
    "leyden inspect": lambda: command(["inspect", "~/x.ckpt"]) == 0,
    "upgrade_checkpoint": lambda: upgrade(["~/x.ckpt"]) == 0,
    "LightningCLI --config": lambda: LightningCLI(Wide, args=["--config=~/all.yaml"], run=False).model.hparams.width == 5,
    "LightningCLI --ckpt_path": lambda: (
        LightningCLI(Wide, args=["validate", "--ckpt_path=~/x.ckpt", "--config=~/quiet.yaml"]).model.hparams.width == 7
    ),
    "WikiText2": lambda: len(WikiText2("~", block_size=1, download=False)) == 3,
    "ModelCheckpoint, ckpt_path='last'": lambda: (
        kit.fit(Wide(), callbacks=[ModelCheckpoint("~")], enable_checkpointing=True, ckpt_path="last").global_step == 1
    ),
}


GIVEN: dict[str, Callable[[str], Any]] = {
    "Trainer.default_root_dir": lambda path: run(default_root_dir=path, logger=True),
    "ModelCheckpoint": lambda path: run(ModelCheckpoint(path), enable_checkpointing=True),
    "OnExceptionCheckpoint": lambda path: run(OnExceptionCheckpoint(path)),
    "CSVLogger": lambda path: run(logger=CSVLogger(path)),
    "TensorBoardLogger": lambda path: run(logger=TensorBoardLogger(path)),
    "SimpleProfiler": lambda path: run(profiler=SimpleProfiler(path, "x")),
    "get_filesystem": get_filesystem,
}


@pytest.mark.parametrize("door", GIVEN)
def test_an_url_that_cannot_be_reached_is_named_before_the_first_step(door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wide, "training_step", lambda *_: pytest.fail("it trains"))
    with pytest.raises(InvalidOption, match=r"path='nowhere://a/b.*' cannot be used: .* URL of a kind that fsspec knows"):
        GIVEN[door]("nowhere://a/b")

    def missing(*args: Any, **kwargs: Any) -> Any:
        raise ImportError("Install s3fs to access S3") from ModuleNotFoundError("No module named 's3fs'", name="s3fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingPackage, match="pip install s3fs"):
        GIVEN[door]("s3://a/b")


def test_an_url_of_its_own_is_a_checkpoint_io_s_affair(home: Path) -> None:
    class Mine(CheckpointIO):
        held: ClassVar[dict[str, Any]] = {}

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            self.held[str(path)] = checkpoint

        def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
            return dict(self.held[str(path)])

        def remove_checkpoint(self, path: Any) -> None:
            del self.held[str(path)]

    for steps in (1, 2):
        best = ModelCheckpoint("nowhere://a/b", save_last=True, every_n_train_steps=1)
        trainer = kit.trainer(best, max_steps=steps, limit_val_batches=0, plugins=[Mine()], enable_checkpointing=True)
        trainer.fit(BoringModel(), ckpt_path="nowhere://a/b/last.ckpt" if steps == 2 else None)
        assert trainer.global_step == steps
    assert sorted(Mine.held) == ["nowhere://a/b/epoch=0-step=2.ckpt", "nowhere://a/b/last.ckpt"]


@pytest.mark.parametrize("door", [door for door in GIVEN if door != "get_filesystem"])
def test_a_path_that_none_can_be_is_named(door: str, home: Path) -> None:
    with pytest.raises((InvalidOption, CheckpointWriteFailed), match="null byte"):
        GIVEN[door]("a\0b")


@pytest.mark.parametrize("door", READERS)
def test_what_is_read_under_a_tilde_stands_in_the_users_folder(door: str, home: Path) -> None:
    trainer = kit.trainer(limit_train_batches=1, limit_val_batches=0)
    trainer.fit(Wide(width=7))
    trainer.save_checkpoint(home / "x.ckpt")
    save_weights(Wide(), home / "x.safetensors")
    (home / "width.yaml").write_text("width: 5")
    (home / "wikitext-2.txt").write_text("a b a")
    options = {**kit.QUIET, "max_epochs": 1, "limit_val_batches": 1}
    save_hparams_to_yaml(home / "quiet.yaml", {"trainer": options})
    save_hparams_to_yaml(home / "all.yaml", {"model": {"width": 5}, "trainer": options})
    assert READERS[door]()


@pytest.mark.parametrize(
    "logger",
    [lambda path: MLFlowLogger(save_dir=path), lambda path: WandbLogger(save_dir=path, offline=True)],
    ids=["mlflow", "wandb"],
)
def test_services_are_told_the_users_folder(logger: Callable[[str], Any], home: Path) -> None:
    assert logger("~/runs").save_dir == str(home / "runs")


def test_what_is_kept_of_a_path_is_right_wherever_the_process_goes(home: Path) -> None:
    assert OnExceptionCheckpoint("~/crashes").ckpt_path == str(home / "crashes" / "on_exception.ckpt")
