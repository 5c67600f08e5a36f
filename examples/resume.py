"""Kill a training as often as you like: it ends with the same bits.

    python examples/resume.py             # trains, and prints a hash of the weights and of the metrics
    python examples/resume.py --kill 5    # the same, killed five times with SIGKILL and rerun: the same hashes

The model has dropout, the data is shuffled and augmented at random, gradients are accumulated, and validation runs in the
middle of an epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import CSVLogger


class Noisy(Dataset[Any]):
    """Points of two classes, with fresh noise each time they are read."""

    def __init__(self, size: int) -> None:
        generator = torch.Generator().manual_seed(size)
        self.labels = torch.randint(0, 2, (size,), generator=generator)
        self.points = torch.randn(size, 16, generator=generator) + self.labels[:, None]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.points[index] + 0.1 * torch.randn(16), self.labels[index]


class Classifier(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(folder: Path) -> None:
    """The training. The same call starts it and continues it."""
    leyden.seed_everything(1, verbose=False)
    module = Classifier()
    trainer = leyden.Trainer(
        accelerator="cpu",
        max_epochs=8,
        accumulate_grad_batches=2,
        val_check_interval=0.5,
        log_every_n_steps=5,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=CSVLogger(folder, name="", version="logs"),
        callbacks=[ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_train_steps=10)],
    )
    trainer.fit(
        module,
        DataLoader(Noisy(4000), batch_size=32, shuffle=True),
        DataLoader(Noisy(500), batch_size=64, shuffle=True),
        ckpt_path="last",
    )
    weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in module.state_dict().values()))
    metrics = hashlib.sha256((folder / "logs" / "metrics.csv").read_bytes())
    print(f"weights {weights.hexdigest()[:16]}  metrics {metrics.hexdigest()[:16]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kill", type=int, default=0, metavar="TIMES", help="kill the training this often, and rerun it")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        train(options.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, os.path.abspath(__file__), "--folder", folder]
        for number in range(1, options.kill + 1):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            checkpoints = Path(folder) / "checkpoints"
            before = {entry.name: entry.stat().st_mtime_ns for entry in checkpoints.glob("*")} if checkpoints.exists() else {}
            while process.poll() is None and before == (
                {entry.name: entry.stat().st_mtime_ns for entry in checkpoints.glob("*")} if checkpoints.exists() else {}
            ):
                time.sleep(0.01)  # wait until it has come further
            time.sleep(random.uniform(0, 0.3))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                print(f"killed for the {number}. time")
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
