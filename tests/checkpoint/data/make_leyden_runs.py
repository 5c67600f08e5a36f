"""Makes ``leyden-0.1.0-runs``: checkpoints of a run of that version, saved wherever it could be cut, and how the run ended.

Run it with the version whose files are wanted: ``PYTHONPATH=.../src python make_leyden_runs.py FOLDER``.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import ModelCheckpoint

OPTIONS: dict[str, Any] = {
    "max_epochs": 2,
    "accumulate_grad_batches": 2,
    "val_check_interval": 2,
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer = torch.nn.Linear(3, 2)
        self.drop = torch.nn.Dropout(0.3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.drop(self.layer(batch[0])).sub(1).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).pow(2).mean() + torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.8), "interval": "step"}]


def loaders() -> tuple[Any, Any]:
    data = torch.randn(14, 3, generator=torch.Generator().manual_seed(2))
    return DataLoader(TensorDataset(data), batch_size=2, shuffle=True), DataLoader(TensorDataset(data[:6]), batch_size=2)


class Saves(leyden.callbacks.Checkpoint):
    """Saves where the callbacks that save are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: Any, where: str) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.progress.batches:02d}-{where}.ckpt")

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.save(trainer, "batch-end")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "validation-end")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer, "epoch-end")


class Kills(leyden.Callback):
    """SIGTERM in the middle of a validation."""

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any) -> None:
        if trainer.progress.batches == 4 and batch_idx == 1:
            signal.raise_signal(signal.SIGTERM)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    leyden.seed_everything(7)
    net = Net()
    leyden.Trainer(**OPTIONS, callbacks=[Saves(folder)]).fit(net, *loaders())
    torch.save(net.state_dict(), folder / "end.pt")
    leyden.seed_everything(7)
    writer = ModelCheckpoint(folder / "cut", save_last=True, every_n_epochs=9)
    try:
        leyden.Trainer(**OPTIONS, callbacks=[Kills(), writer]).fit(Net(), *loaders())
    except SystemExit:
        (folder / "cut" / "last.ckpt").rename(folder / "04-in-validation.ckpt")
        (folder / "cut").rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
