"""How ``lightning-2.6.6.ckpt`` was made: run this with Lightning 2.6.6 installed. Written in epoch 1, after its third batch."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import lightning.pytorch as pl  # type: ignore[import-not-found]  # not installed with leyden: the file is kept instead
import torch

HERE = pathlib.Path(__file__).parent


class Tiny(pl.LightningModule):  # type: ignore[misc]  # see the import
    def __init__(self, lr: float = 0.1, width: int = 2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(3, width)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).pow(2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Save(pl.Callback):  # type: ignore[misc]  # see the import
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, 2):
            trainer.save_checkpoint(HERE / "lightning-2.6.6.ckpt")


if __name__ == "__main__":
    pl.seed_everything(1)
    data = torch.utils.data.DataLoader(torch.randn(10, 3), batch_size=2)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [
            pl.callbacks.ModelCheckpoint(dirpath=folder, monitor="val_loss"),
            pl.callbacks.EarlyStopping("val_loss", patience=7),
            Save(),
        ]
        trainer = pl.Trainer(max_epochs=2, logger=False, enable_progress_bar=False, accelerator="cpu", callbacks=callbacks)
        trainer.fit(Tiny(), data, data)
