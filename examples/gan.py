"""A GAN that learns to draw handwritten digits: two optimizers, stepped by hand (manual optimization).

It trains on the 8 x 8 digits of scikit-learn, and writes what it draws beside its checkpoints: a picture, as viewers of PGM files
show it. `--max_epochs 1 --batches 4` is its short form. Needs scikit-learn: pip install 'leyden[examples]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import CSVLogger


class Generator(nn.Module):
    """Noise (batch, latent) to images (batch, 1, 8, 8), grey levels in 0..1."""

    def __init__(self, latent: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 64),
            nn.Sigmoid(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.layers(noise).view(-1, 1, 8, 8)


class Discriminator(nn.Module):
    """Images to logits (batch, 1): above 0 for real."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(width, width),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
            nn.Linear(width, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


class GAN(pl.LightningModule):
    """Both networks. ``forward`` draws."""

    def __init__(self, latent: int = 32, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False  # which optimizer steps when is told in training_step
        self.generator = Generator(latent)
        self.discriminator = Discriminator()
        self.example_input_array = torch.zeros(2, latent)
        self.register_buffer("shown", torch.randn(16, latent))  # the same noise in each epoch shows how drawings change

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        drawn = self(torch.randn(len(real), self.hparams.latent, device=self.device))
        step_g, step_d = self.optimizers()

        with self.toggled_optimizer(step_d):  # learns to tell drawings from digits; the generator gets no gradients
            judged_real, judged_drawn = self.discriminator(real), self.discriminator(drawn.detach())
            d_loss = (loss_of(judged_real, real=True, smooth=0.1) + loss_of(judged_drawn, real=False)) / 2
            step_d.zero_grad()
            self.manual_backward(d_loss)
            step_d.step()

        with self.toggled_optimizer(step_g):  # learns to draw what passes for real
            g_loss = loss_of(self.discriminator(drawn), real=True)
            step_g.zero_grad()
            self.manual_backward(g_loss)
            step_g.step()

        told_apart = ((judged_real > 0).float().mean() + (judged_drawn < 0).float().mean()) / 2
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)
        self.log("told_apart", told_apart, on_step=False, on_epoch=True)  # 0.5: the drawings cannot be told from digits

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        betas = (0.5, 0.999)
        return [
            torch.optim.Adam(self.generator.parameters(), lr=self.hparams.learning_rate, betas=betas),
            torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams.learning_rate, betas=betas),
        ]

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        self.generator.eval()
        write_picture(self(self.shown), Path(self.trainer.log_dir) / "drawn.pgm")
        self.generator.train()


def loss_of(logits: Tensor, real: bool, smooth: float = 0.0) -> Tensor:
    """How far the discriminator is from saying so. ``smooth`` keeps it from being too sure of what is real."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, 1 - smooth if real else 0.0))


def write_picture(images: Tensor, path: Path, across: int = 8, scale: int = 8) -> None:
    """Images (count, 1, height, width) side by side in one PGM file, ``scale`` times as large."""
    rows = [torch.cat(list(row), dim=-1) for row in images.cpu().squeeze(1).split(across)]
    grey = torch.cat(rows).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    height, width = grey.shape
    path.write_bytes(b"P5 %d %d 255\n" % (width, height) + (grey * 255).round().to(torch.uint8).numpy().tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max_epochs", type=int, default=150)
    parser.add_argument("--batches", type=int, help="batches of an epoch, at most")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--latent", type=int, default=32, help="numbers from which an image is drawn")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    asked = parser.parse_args()
    pl.seed_everything(0)

    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 16
    digits = DataLoader(TensorDataset(images), batch_size=asked.batch_size, shuffle=True, drop_last=True)
    trainer = pl.Trainer(
        max_epochs=asked.max_epochs,
        limit_train_batches=asked.batches,
        logger=CSVLogger("leyden_logs", name="gan"),
        callbacks=[ModelCheckpoint(save_last=True)],
        log_every_n_steps=min(10, asked.batches or 10),
    )
    model = GAN(asked.latent, asked.learning_rate)
    trainer.fit(model, digits)

    print(f"Steps             {trainer.global_step}")
    print(f"Generator loss    {float(trainer.callback_metrics['g_loss']):.4f}")
    print(f"Told apart        {float(trainer.callback_metrics['told_apart']):.3f} (0.5: drawings and digits look alike)")
    print(f"Drawings          {trainer.log_dir}/drawn.pgm")
    print(f"Last checkpoint   {trainer.checkpoint_callback.last_model_path}")


if __name__ == "__main__":
    main()
