"""Any settings may be other in the command that goes on: it goes on rightly, or says by name why it does not."""

from __future__ import annotations

import glob
import os
import re
import tempfile
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import kit
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.errors import CheckpointMismatch, LeydenWarning
from leyden.testing import Recorder

DATA = torch.randn(24, 4, generator=torch.Generator().manual_seed(5))


class Rows(Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return index, DATA[index]


@dataclass(frozen=True)
class Command:
    """What one command says."""

    max_epochs: int = 3
    max_steps: int = -1
    limit_train_batches: int | float = 1.0
    limit_val_batches: int | float = 1.0
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    log_every_n_steps: int = 2
    val_check_interval: int | float = 1.0
    check_val_every_n_epoch: int | None = 1
    reload_dataloaders_every_n_epochs: int = 0
    precision: str = "32-true"
    batch_size: int = 3
    samples: int = 20
    shuffle: bool = True
    loaders: int = 1
    optimizer: str = "SGD"
    groups: int = 1
    lr: float = 0.1
    schedule: int = 0
    patience: int | None = 2
    min_delta: float = 0.0
    save_top_k: int = 1
    monitor: str | None = "val_loss"
    mode: Any = "min"
    every_n_train_steps: int | None = None


CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "max_epochs": st.integers(0, 5),
    "max_steps": st.sampled_from([-1, 0, 3, 8, 30]),
    "limit_train_batches": st.sampled_from([1.0, 0.5, 2, 4, 100]),
    "limit_val_batches": st.sampled_from([1.0, 0, 1]),
    "accumulate_grad_batches": st.integers(1, 4),
    "gradient_clip_val": st.sampled_from([None, 0.1]),
    "log_every_n_steps": st.integers(1, 5),
    "val_check_interval": st.sampled_from([1.0, 0.5, 2]),
    "check_val_every_n_epoch": st.sampled_from([1, 2, None]),
    "reload_dataloaders_every_n_epochs": st.integers(0, 2),
    "precision": st.sampled_from(["32-true", "64-true", "bf16-mixed"]),
    "batch_size": st.integers(1, 7),
    "samples": st.sampled_from([20, 24, 12]),
    "shuffle": st.booleans(),
    "loaders": st.integers(1, 2),
    "optimizer": st.sampled_from(["SGD", "Adam", "AdamW"]),
    "groups": st.integers(1, 2),
    "lr": st.sampled_from([0.1, 0.01]),
    "schedule": st.integers(0, 3),
    "patience": st.sampled_from([None, 1, 2, 9]),
    "min_delta": st.sampled_from([0.0, 0.1]),
    "save_top_k": st.sampled_from([-1, 0, 1, 2]),
    "monitor": st.sampled_from(["val_loss", "train_loss"]),
    "mode": st.sampled_from(["min", "max"]),
    "every_n_train_steps": st.sampled_from([None, 2]),
}
OF_TRAINER = list(CHANGES)[:11]
MISMATCHES = ("samples", "shuffle", "loaders", "optimizer", "groups", "schedule")


class Net(leyden.LightningModule):
    def __init__(self, command: Command) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.command = torch.nn.Linear(4, 1), command
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        index, x = batch[0] if self.command.loaders > 1 else batch
        self.seen.append((self.current_epoch, index.tolist()))
        loss: Tensor = self.layer(x.to(self.layer.weight.dtype)).square().mean()
        self.log("train_loss", loss, on_step=True, on_epoch=False)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", 1.0)

    def train_dataloader(self) -> Any:
        command = self.command
        made = [DataLoader(Rows(command.samples), command.batch_size, shuffle=command.shuffle) for _ in range(command.loaders)]
        return made if command.loaders > 1 else made[0]

    def val_dataloader(self) -> Any:
        return DataLoader(Rows(2))

    def configure_optimizers(self) -> Any:
        command, parameters = self.command, list(self.parameters())
        groups = [{"params": parameters}] if command.groups == 1 else [{"params": [each]} for each in parameters]
        optimizer = getattr(torch.optim, command.optimizer)(groups, command.lr)
        if not command.schedule:
            return optimizer
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, command.schedule, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def run(command: Command, folder: str, *callbacks: Any, path: Any = None) -> tuple[Net, leyden.Trainer]:
    stopping = [] if command.patience is None else [EarlyStopping("val_loss", command.min_delta, command.patience, strict=False)]
    writer = ModelCheckpoint(
        Path(folder, "kept"),
        monitor=command.monitor,
        mode=command.mode,
        save_top_k=command.save_top_k,
        save_last=True,
        every_n_train_steps=command.every_n_train_steps,
    )
    trainer = kit.trainer(
        *callbacks,
        *stopping,
        writer,
        enable_checkpointing=True,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        plugins=[TorchCheckpointIO(kit.Unsynced())],
        **{name: getattr(command, name) for name in OF_TRAINER},
    )
    leyden.seed_everything(7)
    net = Net(command)
    trainer.fit(net, ckpt_path=path)
    return net, trainer


def end_at(batches: int, how: str, path: Path) -> Recorder:
    def end(trainer: Any, *_: Any) -> None:
        if trainer.leyden_fit.progress.batches != batches:
            return
        if how == "stop":
            trainer.should_stop = True
        else:
            trainer.save_checkpoint(path)
            raise kit.Crash

    return Recorder(on_train_batch_end=end)


@st.composite
def some(draw: st.DrawFn, most: int) -> dict[str, Any]:
    """Some settings."""
    names = draw(st.lists(st.sampled_from(list(CHANGES)), max_size=most, unique=True))
    return {name: draw(CHANGES[name]) for name in names}


@settings(max_examples=60)
@given(some(6), some(3), st.integers(1, 16), st.sampled_from(["stop", "crash"]))
def test_any_change(first: dict[str, Any], second: dict[str, Any], batches: int, how: str) -> None:
    then = replace(Command(), **first)
    now = replace(then, **second)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", LeydenWarning)
        warnings.filterwarnings("ignore", "The `srun`|.*lr_scheduler.step", UserWarning)
        path = Path(folder, "cut.ckpt")
        one = None
        try:
            one, _ = run(then, folder, end_at(batches, how, path))
        except kit.Crash:
            pass
        except leyden.errors.LeydenError:
            return  # this command cannot run at all
        path = path if path.exists() else Path(folder, "kept", "last.ckpt")
        if not path.exists():
            return
        reached = torch.load(path, weights_only=True)["leyden"]["progress"]
        try:
            two, trainer = run(now, folder, path=path)
        except CheckpointMismatch as error:
            said = str(error)
            named = any(getattr(then, name) != getattr(now, name) for name in (*MISMATCHES, "batch_size"))
            capsules = glob.glob(os.path.join(folder, "**", "*crash*"), recursive=True)
            if not named or capsules or not re.search("then|holds the state", said):
                raise AssertionError((said, capsules)) from error
            return
        except leyden.errors.MisconfigurationException:
            return  # said before a step, as for a command that begins
        assert trainer.accumulate_grad_batches == now.accumulate_grad_batches
        done_epochs, done_steps = reached["epoch"], reached["step"]
        if (
            now.max_epochs < done_epochs
            or (now.max_epochs == done_epochs and reached["batch"])
            or 0 <= now.max_steps < done_steps
        ):
            assert two.seen == []  # it had come further than it is to go
        if now.max_steps >= 0:
            assert trainer.global_step <= max(now.max_steps, done_steps)
        stopped = trainer.should_stop
        if not stopped and now.max_steps < 0 and now.limit_train_batches != 0:
            assert trainer.current_epoch >= now.max_epochs or two.seen == []
        before = one.seen if one is not None else []
        epochs = {epoch for epoch, _ in two.seen}
        for epoch in epochs:
            samples = [index for number, rows in two.seen if number == epoch for index in rows]
            if now.loaders == 1:
                assert len(set(samples)) == len(samples)
            if epoch == done_epochs and reached["batch"] and not reached["closed"] and one is not None and now.loaders == 1:
                earlier = [index for number, rows in before if number == epoch for index in rows]
                assert not set(earlier) & set(samples)
