"""How the files of ``lightning-2.6.6-runs`` were made: run this with Lightning 2.6.6 installed.

Each was written at another place of one run, whose weights at its end are in ``end.ckpt``. Nothing in the run is random.
"""

from __future__ import annotations

import pathlib
from typing import Any

import lightning.pytorch as pl  # type: ignore[import-not-found]  # not installed with leyden: the files are kept instead
import torch

HERE = pathlib.Path(__file__).parent / "lightning-2.6.6-runs"


class Net(pl.LightningModule):  # type: ignore[misc]  # see the import
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layer(batch).sub(1).pow(2).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch).pow(2).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        by_epoch = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}, {"scheduler": by_epoch, "interval": "epoch"}]


class TwoOptimizers(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.other = torch.nn.Linear(3, 2)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer, layer in zip(self.optimizers(), (self.layer, self.other), strict=True):
            optimizer.zero_grad()
            self.manual_backward(layer(batch).sub(1).pow(2).mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.layer.parameters(), lr=0.1), torch.optim.SGD(self.other.parameters(), lr=0.1)]


class Save(pl.Callback):  # type: ignore[misc]  # see the import
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def save(self, trainer: Any, name: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{name}.ckpt")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx in (1, 3):
            self.save(trainer, "mid-epoch" if batch_idx == 1 else "last-batch")

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1:
            self.save(trainer, "in-validation")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.save(trainer, "after-validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1:
            self.save(trainer, "epoch-end")


class SaveLast(pl.callbacks.ModelCheckpoint):  # type: ignore[misc]  # see the import
    """Lightning's own callback, after the second of the epochs."""


def data() -> Any:
    return torch.utils.data.DataLoader(torch.arange(24.0).reshape(8, 3) / 24, batch_size=2)


def make(name: str, module: Any, **options: Any) -> None:
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.ckpt"):
        path.unlink()
    writer = SaveLast(dirpath=folder, filename="checkpoint-{epoch}", every_n_epochs=2, save_top_k=-1)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", **options}
    trainer = pl.Trainer(max_epochs=4, callbacks=[Save(folder), writer], **options)
    trainer.fit(module, data(), data())
    (folder / "checkpoint-epoch=3.ckpt").unlink()
    torch.save({key: value.clone() for key, value in module.state_dict().items()}, folder / "end.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(1)
    make("plain", Net())
    make("windows", Net(), accumulate_grad_batches=2)
    make("middle", Net(), val_check_interval=2)
    make("two", TwoOptimizers())
