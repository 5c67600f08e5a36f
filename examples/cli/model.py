"""A network for handwritten digits, whose size, optimizer and encoder a configuration chooses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leyden as pl


class Encoder(nn.Module):
    """Images (batch, 64) to features (batch, width).

    Args:
        width: numbers of an image's description.
        dropout: share of them that is left out in training.
    """

    def __init__(self, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.width = width
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features


class Classifier(pl.LightningModule):
    """Images (batch, 64) to logits (batch, classes).

    Args:
        encoder: what describes an image.
        classes: kinds of digits.
    """

    def __init__(self, encoder: Encoder, classes: int = 10) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.score(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.score(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return torch.argmax(self(batch[0]), dim=1)

    def score(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        images, labels = batch
        logits = self(images)
        self.log(f"{stage}_loss", F.cross_entropy(logits, labels), prog_bar=True)
        self.log(f"{stage}_acc", (logits.argmax(dim=1) == labels).float().mean(), prog_bar=True)
