"""A project as 2020's template laid it out: options by argparse, hyper-parameters in `self.hparams`, steps that return dicts.

A classifier of scikit-learn's 8x8 digits. `--max_epochs 1` is its short form. Needs scikit-learn: pip install 'leyden[examples]'.
"""

from argparse import ArgumentParser
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import optim
from torch.utils.data import DataLoader, TensorDataset

from leyden import Trainer, data_loader, seed_everything
from leyden.callbacks import EarlyStopping, ModelCheckpoint
from leyden.core import LightningModule
from leyden.logging import TensorBoardLogger


class LightningTemplateModel(LightningModule):
    def __init__(self, hparams):
        super().__init__()
        self.hparams = hparams
        self.example_input_array = torch.rand(5, hparams.in_features)
        self.c_d1 = nn.Linear(hparams.in_features, hparams.hidden_dim)
        self.c_d1_bn = nn.BatchNorm1d(hparams.hidden_dim)
        self.c_d1_drop = nn.Dropout(hparams.drop_prob)
        self.c_d2 = nn.Linear(hparams.hidden_dim, hparams.out_features)

    def forward(self, x):
        x = self.c_d1_drop(self.c_d1_bn(torch.tanh(self.c_d1(x))))
        return F.log_softmax(self.c_d2(x), dim=1)

    def loss(self, labels, logits):
        return F.nll_loss(logits, labels)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss_val = self.loss(y, self(x.view(x.size(0), -1)))
        if self.trainer.use_dp or self.trainer.use_ddp2:  # there each device's part is averaged afterwards
            loss_val = loss_val.unsqueeze(0)
        tqdm_dict = {"train_loss": loss_val}
        return OrderedDict({"loss": loss_val, "progress_bar": tqdm_dict, "log": tqdm_dict})

    def evaluated(self, batch):
        x, y = batch
        y_hat = self(x.view(x.size(0), -1))
        loss_val = self.loss(y, y_hat)
        acc = torch.sum(y == torch.argmax(y_hat, dim=1)).float() / len(y)
        if self.on_gpu:
            acc = acc.cuda(loss_val.device.index)
        if self.trainer.use_dp or self.trainer.use_ddp2:
            loss_val, acc = loss_val.unsqueeze(0), acc.unsqueeze(0)
        return loss_val, acc

    def validation_step(self, batch, batch_idx):
        val_loss, val_acc = self.evaluated(batch)
        if batch_idx == 0:
            self.logger.experiment.add_images("digits", batch[0][:8].unsqueeze(1), self.current_epoch)
        return OrderedDict({"val_loss": val_loss, "val_acc": val_acc})

    def validation_end(self, outputs):
        tqdm_dict = {name: torch.stack([each[name] for each in outputs]).mean() for name in ("val_loss", "val_acc")}
        return {"progress_bar": tqdm_dict, "log": tqdm_dict, "val_loss": tqdm_dict["val_loss"]}

    def test_step(self, batch, batch_idx):
        test_loss, test_acc = self.evaluated(batch)
        return OrderedDict({"test_loss": test_loss, "test_acc": test_acc})

    def configure_optimizers(self):
        optimizer = optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
        return [optimizer], [scheduler]

    def prepare_data(self):
        digits = load_digits()
        x, y = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        self.splits = [TensorDataset(x[part], y[part]) for part in order.split([1197, 300, 300])]

    @data_loader
    def train_dataloader(self):
        return DataLoader(self.splits[0], batch_size=self.hparams.batch_size, shuffle=True)

    @data_loader
    def val_dataloader(self):
        return DataLoader(self.splits[1], batch_size=self.hparams.batch_size)

    @data_loader
    def test_dataloader(self):
        return DataLoader(self.splits[2], batch_size=self.hparams.batch_size)

    @staticmethod
    def add_model_specific_args(parent_parser):
        parser = ArgumentParser(description=__doc__, parents=[parent_parser])
        parser.add_argument("--in_features", default=64, type=int)
        parser.add_argument("--out_features", default=10, type=int)
        parser.add_argument("--hidden_dim", default=128, type=int)
        parser.add_argument("--drop_prob", default=0.2, type=float)
        parser.add_argument("--learning_rate", default=0.01, type=float)
        parser.add_argument("--batch_size", default=32, type=int)
        parser.add_argument("--max_epochs", default=10, type=int)
        return parser


def main(hparams):
    seed_everything(2334)
    model = LightningTemplateModel(hparams)
    trainer = Trainer(
        logger=TensorBoardLogger("lightning_logs", name="template"),
        checkpoint_callback=ModelCheckpoint(filepath="checkpoints/{epoch}-{val_loss:.2f}", prefix="digits_", period=1),
        early_stop_callback=EarlyStopping(monitor="val_loss", patience=5, mode="auto"),
        gpus=hparams.gpus,
        distributed_backend=hparams.distributed_backend,
        precision=16 if hparams.use_16bit else 32,
        max_nb_epochs=hparams.max_epochs,
        show_progress_bar=False,
        weights_summary=None,
    )
    if trainer.fit(model) == 1:
        trainer.test()
        best = trainer.checkpoint_callback.best_model_path
        print(f"Best checkpoint  {best}")
        print(f"Hidden units     {LightningTemplateModel.load_from_checkpoint(best).hparams.hidden_dim}")


if __name__ == "__main__":
    parent_parser = ArgumentParser(add_help=False)
    parent_parser.add_argument("--gpus", type=int, default=0, help="how many gpus")
    parent_parser.add_argument("--distributed_backend", type=str, default="dp", help="supports three options dp, ddp, ddp2")
    parent_parser.add_argument("--use_16bit", dest="use_16bit", action="store_true", help="if true uses 16 bit precision")
    main(LightningTemplateModel.add_model_specific_args(parent_parser).parse_args())
