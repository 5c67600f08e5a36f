"""Loaders that methods make, and modules that hooks rebuild: a resumed run has what the cut one had."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, Dataset, Subset, random_split

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.errors import CheckpointMismatch

DATA = torch.arange(24.0).reshape(24, 1).expand(-1, 4) / 24
NUMBERS: list[Tensor] = list(DATA)
EPOCHS = 3


class Base(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.seen: list[Any] = []
        self.made: list[tuple[str, int]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(("train", (batch[:, 0] * 24).round().int().tolist()))
        loss: Tensor = self.net(batch).pow(2).mean()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    def train_dataloader(self) -> Any:
        return DataLoader(NUMBERS, 4)  # type: ignore[arg-type]  # a list is a dataset


class ByEpoch(Base):
    """Loads more in each epoch, and asks for the number of steps at once."""

    def train_dataloader(self) -> Any:
        self.made.append(("train", self.current_epoch))
        return DataLoader(Subset(NUMBERS, range(8 * (self.current_epoch + 1))), 4, shuffle=True)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (10 * steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class AskedInSetup(ByEpoch):
    def setup(self, stage: str) -> None:
        self.steps = self.trainer.estimated_stepping_batches


class Split(Base):
    """Splits at random, from the process's generator and from its own, whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.Generator().manual_seed(3)

    def train_dataloader(self) -> Any:
        first, _ = random_split(NUMBERS, [16, 8])  # type: ignore[arg-type]
        second, _ = random_split(first, [12, 4], generator=self.own)
        return DataLoader(second, 4, shuffle=True)

    def val_dataloader(self) -> Any:
        first, _ = random_split(NUMBERS, [4, 20])  # type: ignore[arg-type]
        return DataLoader(first, 4)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen.append(("val", (batch[:, 0] * 24).round().int().tolist()))


class Noisy(Dataset[Tensor]):
    """Adds noise from a generator of its own to every sample."""

    def __init__(self) -> None:
        self.own = torch.Generator().manual_seed(5)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        return DATA[index] + torch.randn(4, generator=self.own)


class DrawsInValidation(Base):
    """Validates twice an epoch, on data that draws from a generator made with the loader."""

    def val_dataloader(self) -> Any:
        return DataLoader(Noisy(), 2)

    def train_dataloader(self) -> Any:
        return DataLoader(Subset(NUMBERS, range(8)), 2, shuffle=True, generator=torch.Generator().manual_seed(4))  # type: ignore[arg-type]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen.append(("val", batch.tolist()))


class Cut(Exception):
    """The run ends here, as by a kill."""


class CutAt(leyden.Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            raise Cut


def fit(kind: type[Base], path: Path, *, cut: int | None = None, resume: bool = False, **options: Any) -> Base:
    leyden.seed_everything(0)
    module = kind()
    callbacks = options.pop("callbacks", [])
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(callbacks)}
    quiet.update(logger=False, accelerator="cpu", num_sanity_val_steps=0, default_root_dir=path.parent)
    cutting = [] if cut is None else [CutAt(cut, path)]
    trainer = leyden.Trainer(max_epochs=EPOCHS, callbacks=[*callbacks, *cutting], **{**quiet, **options})
    with suppress(Cut):
        trainer.fit(module, ckpt_path=path if resume else None)
    return module


def check(kind: type[Base], path: Path, cut: int, **options: Any) -> Base:
    whole = fit(kind, path, **options)
    first = fit(kind, path, cut=cut, **options)
    second = fit(kind, path, resume=True, **options)
    assert first.seen + second.seen == whole.seen
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    return second


@pytest.mark.parametrize("kind", [ByEpoch, AskedInSetup, Split])
@pytest.mark.parametrize("every", [0, 1, 2])
@pytest.mark.parametrize("cut", [1, 2, 4, 5, 6])
def test_loaders_are_made_as_they_were(kind: type[Base], every: int, cut: int, tmp_path: Path) -> None:
    check(kind, tmp_path / "a.ckpt", cut, reload_dataloaders_every_n_epochs=every)


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("cut", [3, 5, 9])
def test_generators_of_loaders_that_are_made_late_or_anew(every: int, cut: int, tmp_path: Path) -> None:
    check(DrawsInValidation, tmp_path / "a.ckpt", cut, reload_dataloaders_every_n_epochs=every, val_check_interval=0.5)


def test_the_epoch_is_known_before_a_loader_is_made(tmp_path: Path) -> None:
    second = check(AskedInSetup, tmp_path / "a.ckpt", 4, reload_dataloaders_every_n_epochs=1)
    assert second.made[0] == ("train", 1)
    assert second.steps == 6


class SavesInSetup(leyden.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trainer.save_checkpoint(self.path)
        trainer.save_checkpoint(self.path.with_suffix(".weights"), weights_only=True)


def test_what_is_saved_before_a_run_is_put_back_is_what_it_goes_on_from(tmp_path: Path) -> None:
    path, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    first = fit(Split, path, cut=4)
    second = fit(Split, path, resume=True)
    fit(Split, path, resume=True, callbacks=[SavesInSetup(other)])
    assert fit(Split, other, resume=True).seen == second.seen
    weights = torch.load(other.with_suffix(".weights"), weights_only=True)
    assert not {"loops", "callbacks", "optimizer_states", "lr_schedulers"} & set(weights)
    assert torch.equal(weights["state_dict"]["net.0.weight"], first.net[0].weight)  # type: ignore[arg-type]


# -- modules that hooks rebuild


class Pruned(Base):
    def on_train_epoch_end(self) -> None:
        prune.l1_unstructured(self.net[0], "weight", amount=0.2)  # type: ignore[no-untyped-call]


def rebuild(module: Pruned) -> None:
    prune.identity(module.net[0], "weight")  # type: ignore[no-untyped-call]


class RebuiltOnLoad(Pruned):
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "net.0.weight_mask" in checkpoint["state_dict"]:
            rebuild(self)


class RebuiltInConfigureModel(Pruned):
    def configure_model(self) -> None:
        if self.current_epoch > 0:
            rebuild(self)


class RebuiltOnFitStart(Pruned):
    def on_fit_start(self) -> None:
        if self.current_epoch > 0:
            rebuild(self)


@pytest.mark.parametrize("kind", [RebuiltOnLoad, RebuiltInConfigureModel, RebuiltOnFitStart])
@pytest.mark.parametrize("cut", [4, 8, 14])
def test_a_pruned_module_comes_back_where_it_is_rebuilt(kind: type[Pruned], cut: int, tmp_path: Path) -> None:
    check(kind, tmp_path / "a.ckpt", cut)


class Forgotten(Pruned):
    def on_fit_start(self) -> None:
        pass


@pytest.mark.parametrize("kind", [Pruned, Forgotten])
def test_the_error_says_where_to_rebuild(kind: type[Pruned], tmp_path: Path) -> None:
    fit(kind, tmp_path / "a.ckpt", cut=8)
    with pytest.raises(CheckpointMismatch, match=r"(?s)weight_mask.*in on_load_checkpoint, configure_model or on_fit_start"):
        fit(kind, tmp_path / "a.ckpt", resume=True)


class Parametrized(Base):
    def configure_model(self) -> None:
        if self.current_epoch > 0:
            weight_norm(self.net[0])

    def on_train_epoch_end(self) -> None:
        if self.current_epoch == 0:
            weight_norm(self.net[0])
            optimizer: Any = self.optimizers(False)
            added = [parameter for name, parameter in self.net[0].named_parameters() if "original" in name]
            optimizer.add_param_group({"params": added})


def test_a_module_that_was_parametrized_on_the_way(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMismatch, match=r"does not fit|group"):  # the first group still holds what is gone
        check(Parametrized, tmp_path / "a.ckpt", 8)


def test_every_step_of_a_pruned_run_can_be_gone_on_from(tmp_path: Path) -> None:
    writer = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
    whole = fit(RebuiltOnLoad, tmp_path / "x", callbacks=[writer])
    for step in (5, 6, 7, 12, 13):
        assert fit(RebuiltOnLoad, tmp_path / f"step={step}.ckpt", resume=True).seen == whole.seen[step:]
