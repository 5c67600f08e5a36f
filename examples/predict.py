"""From a checkpoint to answers: load a model, write what it predicts to a file as it goes, and hand the model on to others.

A small classifier of handwritten digits is trained first, unless the folder has its checkpoint already. Then it is loaded from
the file, predicts pictures in a random order, and a BasePredictionWriter writes each answer with the number of its picture.
Nothing is kept in memory. At last the model leaves as weights alone (safetensors) and as a program that runs without its class
(torch.export).

Needs scikit-learn and safetensors: pip install 'leyden[examples,safetensors]'.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.callbacks import BasePredictionWriter, ModelCheckpoint
from leyden.utilities.export import to_exported_program
from leyden.utilities.weights import load_weights, save_weights

FOLDER = Path("leyden_logs") / "predict"
SEEN = 1200  # of the 1,797 pictures


class Classifier(pl.LightningModule):
    """Images (batch, 64) to logits (batch, 10)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        self.example_input_array = torch.zeros(2, 64)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self(batch[0]).softmax(dim=1)  # type: ignore[no-any-return]  # a tensor

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Table(BasePredictionWriter):
    """Writes a row for each picture: its number in the dataset, the digit, and how sure the model is."""

    def __init__(self, path: Path) -> None:
        super().__init__("batch")
        self.path = path

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.path.write_text("picture,digit,sure\n")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert batch_indices is not None  # None for data without indices, such as a stream
        sure, digit = prediction.max(dim=1)
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows(zip(batch_indices, digit.tolist(), sure.tolist(), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max_epochs", type=int, default=40)
    asked = parser.parse_args()
    pl.seed_everything(0)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    unseen = TensorDataset(images[SEEN:], labels[SEEN:])

    checkpoint = FOLDER / "digits.ckpt"
    if not checkpoint.exists():
        kept = ModelCheckpoint(FOLDER, filename="digits")
        trainer = pl.Trainer(max_epochs=asked.max_epochs, accelerator="cpu", logger=False, callbacks=[kept])
        trainer.fit(Classifier(), DataLoader(TensorDataset(images[:SEEN], labels[:SEEN]), batch_size=64, shuffle=True))

    model = Classifier.load_from_checkpoint(checkpoint)
    table = Table(FOLDER / "predictions.csv")
    predicting = pl.Trainer(accelerator="cpu", logger=False, callbacks=[table], enable_checkpointing=False)
    predicting.predict(model, DataLoader(unseen, batch_size=64, shuffle=True), return_predictions=False)

    with table.path.open(newline="") as file:
        answers = {int(row["picture"]): int(row["digit"]) for row in csv.DictReader(file)}
    right = sum(answers[number] == int(label) for number, label in enumerate(unseen.tensors[1]))

    weights, program = FOLDER / "digits.safetensors", FOLDER / "digits.pt2"
    save_weights(model, weights)
    again = Classifier()
    load_weights(again, weights)
    to_exported_program(model, program, dynamic_shapes=({0: torch.export.Dim.AUTO},))
    model.eval()
    again.eval()
    with torch.no_grad():
        expected = model(unseen.tensors[0])
        same = [torch.equal(again(unseen.tensors[0]), expected)]
        same.append(torch.allclose(torch.export.load(program).module()(unseen.tensors[0]), expected, atol=1e-6))

    print(f"\nPredictions       {table.path}")
    print(f"Right             {right / len(unseen):.4f} of {len(answers)} pictures")
    print(f"Weights           {weights} ({'the same answers' if same[0] else 'OTHER ANSWERS'})")
    print(f"Program           {program} ({'the same answers' if same[1] else 'OTHER ANSWERS'})")
    return 0 if all(same) and len(answers) == len(unseen) else 1


if __name__ == "__main__":
    sys.exit(main())
