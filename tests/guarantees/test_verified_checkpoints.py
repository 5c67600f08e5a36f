"""Guarantee 10: a changed file is found or loads as what it was, and no checkpoint needs code to be run when it is read."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import enum
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, Timer
from leyden.errors import CheckpointDamaged, LeydenWarning


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Size:
    width: int
    height: float


class Net(leyden.LightningModule):
    """Everything in it that can find its way into a file."""

    def __init__(self, width: int, **more: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        from torchmetrics import MeanMetric

        self.model = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 1))
        self.mean, self.noise = MeanMetric(), np.random.default_rng(3)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.model(batch).square().mean()
        self.mean(loss.detach())
        self.log("mean", self.mean, on_step=True, on_epoch=True)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("most", loss, on_step=False, on_epoch=True, reduce_fx=torch.max)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.model(batch).square().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)]


class Data(leyden.LightningDataModule):
    def __init__(self, batch_size: int, where: Path) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(2)
        return DataLoader(range_of(12), batch_size=self.batch_size, shuffle=True, generator=generator)

    def val_dataloader(self) -> Any:
        return DataLoader(range_of(6), batch_size=self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": np.int64(3), "names": {"a", "b"}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict == {"seen": 3, "names": {"a", "b"}}


def range_of(count: int) -> Any:
    return torch.linspace(0, 1, 4 * count).reshape(count, 4)


class Keeps(leyden.Callback):
    def __init__(self) -> None:
        self.kept: dict[Any, Any] = {
            "when": datetime.timedelta(3),
            "array": np.arange(3),
            (1, "a"): Path("here"),
            "colour": Colour.RED,
        }

    def state_dict(self) -> dict[str, Any]:
        return self.kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict.keys() == self.kept.keys()
        assert np.array_equal(state_dict.pop("array"), np.arange(3))
        assert state_dict == {key: value for key, value in self.kept.items() if key != "array"}


MORE = {
    "space": argparse.Namespace(lr=0.1, deep={"a": [1, (2, None)]}),
    "size": Size(3, 0.5),
    "colour": Colour.RED,
    "path": Path("data") / "set",
    "dtype": torch.bfloat16,
    "when": datetime.datetime(2026, 1, 2),
    "number": np.float32(0.5),
    "tensor": torch.arange(3),
}


def trainer(**options: Any) -> leyden.Trainer:
    options = {"max_epochs": 2, **options}
    return leyden.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        accumulate_grad_batches=2,
        callbacks=[
            ModelCheckpoint("kept", monitor="val_loss", save_top_k=2, save_last=True, every_n_train_steps=1),
            EarlyStopping("val_loss"),
            LearningRateMonitor(),
            Timer("00:01:00:00"),
            Keeps(),
        ],
        **options,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint in the middle of an epoch and of an accumulation window, with all of that in it."""
    path = tmp_path_factory.mktemp("written") / "middle.ckpt"

    class Save(leyden.Callback):
        leyden_phase = "checkpoint"

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.leyden_fit.progress.batches == 7:
                trainer.save_checkpoint(path)

    leyden.seed_everything(1)
    run = leyden.Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=path.parent,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        accumulate_grad_batches=2,
        callbacks=[EarlyStopping("val_loss"), LearningRateMonitor(), Timer("00:01:00:00"), Keeps(), Save()],
    )
    run.fit(Net(6, **MORE), datamodule=Data(3, Path("here")))
    return path.read_bytes()


def test_all_of_it_loads_without_running_code(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    path.write_bytes(written)
    content = torch.load(path, weights_only=True)
    assert {
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "callbacks",
        "loops",
        "hyper_parameters",
        "leyden",
    } <= content.keys()
    assert content["leyden"]["progress"]["batches"] == 7
    (mine,) = content["leyden"]["processes"]
    assert {"random", "data", "metrics", "gradients", "generators", "metric_objects"} <= mine.keys()
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []


def test_every_record_has_a_checksum(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    path.write_bytes(written)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(record.CRC for record in archive.infolist() if record.file_size)


def test_what_stood_in_it_comes_back(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    path.write_bytes(written)
    net = Net.load_from_checkpoint(path)
    assert net.hparams.width == 6
    for name, value in MORE.items():
        loaded = net.hparams[name]
        assert type(loaded) is type(value), name
        assert bool(torch.equal(loaded, value) if isinstance(value, Tensor) else loaded == value), name
    assert Data.load_from_checkpoint(path).hparams == {"batch_size": 3, "where": Path("here")}


def test_no_pickle_is_loaded_and_nothing_is_imported(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "middle.ckpt"
    path.write_bytes(written)
    script = f"""
import builtins, pickle, sys
import leyden
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.checkpoint.format import decode
import torch._weights_only_unpickler

def refuse(*arguments, **keywords):
    raise SystemExit("code was run")

TorchCheckpointIO().load_checkpoint({str(path)!r})  # torch's own modules are imported when they are first used
pickle.load = pickle.loads = refuse
pickle.Unpickler = pickle._Unpickler = refuse
plain = builtins.__import__
known = set(sys.modules)
content = decode(TorchCheckpointIO().load_checkpoint({str(path)!r}))
print(sorted(set(sys.modules) - known), content["epoch"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "[] 1\n", done.stderr


def test_every_change_is_found_or_does_no_harm(written: bytes, tmp_path: Path) -> None:
    from leyden.checkpoint.verified import bytes_verified

    expected = pickle.dumps(flat(bytes_verified(written, "whole.ckpt", "cpu", None)))
    found = 0
    for offset in range(0, len(written), 97):
        changed = bytearray(written)
        changed[offset] ^= 0x41
        try:
            loaded = bytes_verified(bytes(changed), "changed.ckpt", "cpu", None)
        except CheckpointDamaged as error:
            found += "changed.ckpt" in str(error)
        else:
            assert pickle.dumps(flat(loaded)) == expected, offset
    assert found > 100
    for size in range(0, len(written), 501):
        with pytest.raises(CheckpointDamaged, match=r"cut\.ckpt"):
            bytes_verified(written[:size], "cut.ckpt", "cpu", None)


def flat(value: Any) -> Any:
    """Nested values with bytes for tensors."""
    if isinstance(value, Tensor):
        return (
            str(value.dtype),
            tuple(value.shape),
            value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"",
        )
    if isinstance(value, dict):
        return [(str(key), flat(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [flat(item) for item in value]
    return sorted(value) if isinstance(value, set) else str(value)


@pytest.mark.filterwarnings("ignore:ModelCheckpoint was to save by 'val_loss', which has not been logged yet")
def test_a_run_falls_back_to_the_last_good_file_and_ends_with_the_same_bits(own_folder: Path) -> None:
    def fit() -> tuple[Any, Any]:
        leyden.seed_everything(1)
        net = Net(6)
        return net, trainer().fit(net, datamodule=Data(3, Path("here")), ckpt_path="last")

    once, expected = fit()
    for path in Path("kept").glob("*.ckpt"):
        if path.name.startswith(("last", "epoch=1")):
            data = bytearray(path.read_bytes())
            data[len(data) // 3] ^= 0xFF
            path.write_bytes(bytes(data))
    with pytest.warns(LeydenWarning, match="It was moved to"):
        net, result = fit()
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), net.state_dict().values(), strict=True))
    assert result.history == expected.history
    assert list(Path("kept").glob("last.ckpt.damaged*"))


def test_what_cannot_be_written_is_named_once_and_asked_for(tmp_path: Path) -> None:
    class Holds(Net):
        def __init__(self, width: int, function: Any) -> None:
            super().__init__(width)
            self.save_hyperparameters("function")

    run = leyden.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.warns(LeydenWarning, match="cannot be written into a checkpoint that loads without running code") as told:
        run.fit(Holds(6, function=lambda value: value), datamodule=Data(3, Path("here")))
    run.save_checkpoint(tmp_path / "holds.ckpt")
    assert len([each for each in told if "cannot be written" in str(each.message)]) == 1
    assert torch.load(tmp_path / "holds.ckpt", weights_only=True)["epoch"] == 1
    with pytest.raises(leyden.errors.LeydenError, match="function"):
        Holds.load_from_checkpoint(tmp_path / "holds.ckpt")
    assert Holds.load_from_checkpoint(tmp_path / "holds.ckpt", function=print).hparams.function is print
