"""Learn from plenty, then from little: a network that has learnt the digits 0 to 4 is finetuned on a few pictures of 5 to 9.

The part that the two tasks share, the backbone, is trained on the first. In the second it is frozen while a new head learns, and
thawed later at a tenth of the head's learning rate (BackboneFinetuning). The same network from nothing is trained beside it.

Needs scikit-learn: pip install 'leyden[examples]'.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.callbacks import BackboneFinetuning, LearningRateMonitor, ModelCheckpoint
from leyden.loggers import CSVLogger

FOLDER = "leyden_logs"
LITTLE = 2  # pictures of each of the digits 5 to 9


class Classifier(pl.LightningModule):
    """A backbone that sees, images (batch, 1, 8, 8) to features (batch, 128), and a head that names: to logits (batch, 5)."""

    def __init__(self, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(32 * 2 * 2, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("test_acc", (self(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        # only what trains from the beginning: what is thawed later gets a group of its own
        return torch.optim.AdamW(filter(lambda each: each.requires_grad, self.parameters()), lr=self.learning_rate)


def digits(first: int, samples: slice) -> TensorDataset:
    """Of the five digits from ``first`` on, these of each one's pictures (there are about 180); the first digit's label is 0."""
    everything = load_digits()
    images = torch.tensor(everything.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(everything.target)
    chosen = torch.cat([(labels == first + digit).nonzero()[samples, 0] for digit in range(5)])
    return TensorDataset(images[chosen], labels[chosen] - first)


def trainer(epochs: int, name: str, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(FOLDER, name=name),
        callbacks=list(callbacks),
        log_every_n_steps=1,
        enable_model_summary=False,
        default_root_dir=FOLDER,
        **options,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrain_epochs", type=int, default=15, help="epochs on the digits 0 to 4")
    parser.add_argument("--max_epochs", type=int, default=60, help="epochs on the few pictures of 5 to 9")
    parser.add_argument("--unfreeze_at", type=int, default=20, help="the epoch in which the backbone is thawed")
    asked = parser.parse_args()
    pl.seed_everything(0)

    plenty = DataLoader(digits(0, slice(0, None)), batch_size=64, shuffle=True)
    little = digits(5, slice(0, LITTLE))
    unseen = DataLoader(digits(5, slice(LITTLE, None)), batch_size=256)

    kept = ModelCheckpoint(filename="pretrained")
    trainer(asked.pretrain_epochs, "pretrain", kept).fit(Classifier(), plenty)

    def tested(model: Classifier, name: str, *callbacks: pl.Callback) -> tuple[float, pl.Trainer]:
        pl.seed_everything(0)
        run = trainer(asked.max_epochs, name, *callbacks, enable_checkpointing=False, enable_progress_bar=False)
        run.fit(model, DataLoader(little, batch_size=25, shuffle=True))
        return run.test(model, unseen, verbose=False)[0]["test_acc"], run

    from_nothing, _ = tested(Classifier(), "from_nothing")
    model = Classifier.load_from_checkpoint(kept.best_model_path)
    model.head = nn.Linear(model.head.in_features, 5)  # the other five digits
    finetuning = BackboneFinetuning(asked.unfreeze_at, lambda epoch: 1.2)
    finetuned, run = tested(model, "finetune", finetuning, LearningRateMonitor("epoch"))

    rates = ", ".join(format(group["lr"], ".5f") for group in run.optimizers[0].param_groups)
    print(f"\nPretrained        {kept.best_model_path}")
    print(f"From nothing      {from_nothing:.4f} of the unseen pictures are named right, after {5 * LITTLE} were seen")
    print(f"Finetuned         {finetuned:.4f}")
    print(f"Learning rates    {rates} (the head, the backbone)")
    print(f"Metrics           {run.log_dir}/metrics.csv")
    return 0 if finetuned >= from_nothing else 1


if __name__ == "__main__":
    sys.exit(main())
