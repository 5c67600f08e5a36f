"""A run to look at: a small network learns two spirals, is validated and tested, and leaves logs and checkpoints."""

from __future__ import annotations

import math
import os
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from leyden.callbacks.early_stopping import EarlyStopping
from leyden.callbacks.model_checkpoint import ModelCheckpoint
from leyden.datamodule import LightningDataModule
from leyden.devices.seed import seed_everything
from leyden.loggers.csv import CSVLogger
from leyden.module import LightningModule
from leyden.trainer.trainer import Trainer

WANTED = 0.95


class Spirals(LightningDataModule):
    """Points (x, y) on two spirals that are wound into each other, with noise, and which of the two each is on."""

    def __init__(self, points: int = 2000, batch_size: int = 100) -> None:
        super().__init__()
        self.points, self.batch_size = points, batch_size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(0)
        label = torch.arange(self.points) % 2
        angle = torch.rand(self.points, generator=generator).sqrt() * 3 * math.pi
        turned = angle + label * math.pi
        place = torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1) / (3 * math.pi)
        place += torch.randn(place.shape, generator=generator) * 0.01
        first, second = int(self.points * 0.7), int(self.points * 0.8)
        parts = (slice(None, first), slice(first, second), slice(second, None))
        self.train, self.val, self.test = (TensorDataset(place[part], label[part]) for part in parts)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, batch_size=500)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.test, batch_size=500)


class Network(LightningModule):
    """Points (batch, 2) to logits (batch, 2)."""

    def __init__(self, width: int = 64, learning_rate: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        hidden = [nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, 2))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._score(batch, "test")

    def _score(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        logits = self.layers(batch[0])
        self.log(f"{stage}_loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log(f"{stage}_acc", (logits.argmax(dim=1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def run(folder: str, max_epochs: int) -> int:
    """Train, test, and print where everything is. Returns 0 where the network has learnt the spirals."""
    seed_everything(0)
    logger = CSVLogger(folder, name="spirals")
    best = ModelCheckpoint(monitor="val_loss", save_last=True, filename="{epoch}-{val_loss:.3f}")
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=logger,
        callbacks=[best, EarlyStopping(monitor="val_loss", patience=8)],
        log_every_n_steps=10,
        default_root_dir=folder,
    )
    data = Spirals()
    begin = time.perf_counter()
    trainer.fit(Network(), datamodule=data)
    seconds = time.perf_counter() - begin
    accuracy = trainer.test(datamodule=data, ckpt_path="best")[0]["test_acc"]
    print(f"\nTest accuracy     {accuracy:.4f} (wanted: {WANTED})")
    print(f"Training          {trainer.current_epoch} epochs in {seconds:.1f} s")
    print(f"Metrics           {os.path.join(str(logger.log_dir), 'metrics.csv')}")
    print(f"Best checkpoint   {best.best_model_path}")
    print(f"What is in it     leyden inspect {best.best_model_path}")
    return 0 if accuracy >= WANTED else 1
