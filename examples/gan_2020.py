"""A GAN as programs of 2020 were written: two optimizers in automatic optimization, told apart by `optimizer_idx`.

It learns to draw the 8x8 digits of scikit-learn, and shows what it draws in TensorBoard. `--max_epochs 1 --batches 4` is its
short form. Needs scikit-learn: pip install 'leyden[examples]'.
"""

from argparse import ArgumentParser, Namespace
from collections import OrderedDict

import torch
import torch.nn as nn
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.logging import TensorBoardLogger


class Generator(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 64), nn.LeakyReLU(0.2), nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.Sigmoid()
        )

    def forward(self, z):
        return self.layers(z).view(-1, 1, 8, 8)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))

    def forward(self, images):
        return self.layers(images)


class GAN(pl.LightningModule):
    def __init__(self, hparams):
        super().__init__()
        self.hparams = hparams
        self.generator = Generator(hparams.latent_dim)
        self.discriminator = Discriminator()
        self.last_imgs = None

    def forward(self, z):
        return self.generator(z)

    def adversarial_loss(self, judged, label):
        return F.binary_cross_entropy_with_logits(judged, torch.full_like(judged, label))

    def training_step(self, batch, batch_idx, optimizer_idx):
        (imgs,) = batch
        self.last_imgs = imgs
        z = torch.randn(imgs.shape[0], self.hparams.latent_dim).type_as(imgs)

        if optimizer_idx == 0:  # the generator: its images should pass for real
            g_loss = self.adversarial_loss(self.discriminator(self(z)), 1.0)
            tqdm_dict = {"g_loss": g_loss}
            return OrderedDict({"loss": g_loss, "progress_bar": tqdm_dict, "log": tqdm_dict})

        # the discriminator: to tell them apart
        real_loss = self.adversarial_loss(self.discriminator(imgs), 1.0)
        fake_loss = self.adversarial_loss(self.discriminator(self(z).detach()), 0.0)
        d_loss = (real_loss + fake_loss) / 2
        tqdm_dict = {"d_loss": d_loss}
        return OrderedDict({"loss": d_loss, "progress_bar": tqdm_dict, "log": tqdm_dict})

    def configure_optimizers(self):
        lr, betas = self.hparams.lr, (self.hparams.b1, self.hparams.b2)
        opt_g = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=betas)
        opt_d = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=betas)
        return [opt_g, opt_d], []

    @pl.data_loader
    def train_dataloader(self):
        images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
        return DataLoader(TensorDataset(images), batch_size=self.hparams.batch_size, shuffle=True)

    def on_epoch_end(self):
        z = torch.randn(16, self.hparams.latent_dim).type_as(self.last_imgs)
        with torch.no_grad():
            self.logger.experiment.add_images("generated_images", self(z), self.current_epoch)


def main(hparams):
    pl.seed_everything(0)
    model = GAN(hparams)
    trainer = pl.Trainer(
        gpus=hparams.gpus,
        max_nb_epochs=hparams.max_epochs,
        train_percent_check=min(1.0, hparams.batches * hparams.batch_size / 1797),
        logger=TensorBoardLogger("lightning_logs", name="gan"),
        weights_summary=None,
        row_log_interval=1,
    )
    if trainer.fit(model) == 1:
        print(f"Steps            {trainer.global_step}")
        print(f"Generator loss   {float(trainer.callback_metrics['g_loss']):.4f}")
        print(f"Images           {trainer.logger.log_dir}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=64, help="size of the batches")
    parser.add_argument("--lr", type=float, default=0.0005, help="Adam's learning rate")
    parser.add_argument("--b1", type=float, default=0.5, help="Adam's decay of the gradient's mean")
    parser.add_argument("--b2", type=float, default=0.999, help="Adam's decay of the gradient's square")
    parser.add_argument("--latent_dim", type=int, default=32, help="numbers from which an image is made")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--max_epochs", type=int, default=60)
    parser.add_argument("--batches", type=int, default=10**6, help="batches of an epoch, at most")
    main(Namespace(**vars(parser.parse_args())))
