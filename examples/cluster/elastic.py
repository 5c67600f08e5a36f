"""A job that goes on by itself when a process dies: torchrun starts all of them again, and each goes on from the last checkpoint.

    torchrun --nproc-per-node 2 --max-restarts 3 examples/cluster/elastic.py --die_at 20     # dies once, and ends all the same
    torchrun --nproc-per-node 8 --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29400 examples/cluster/elastic.py

The same script runs without torchrun, in one process.
"""

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.callbacks import ModelCheckpoint

FOLDER = Path("leyden_logs", "elastic")


class Regression(pl.LightningModule):
    """Learns the sum of four numbers; its first life ends at the step ``die_at``."""

    def __init__(self, die_at: int = 0) -> None:
        super().__init__()
        self.die_at = die_at
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if self.die_at and self.global_step == self.die_at and first_life and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max_steps", type=int, default=100)
    parser.add_argument("--die_at", type=int, default=0, help="the step at which the second process kills itself, once")
    asked = parser.parse_args()
    pl.seed_everything(0)
    numbers = torch.randn(4096, 4)
    data = DataLoader(TensorDataset(numbers, numbers.sum(1, keepdim=True)), 8, shuffle=True)
    trainer = pl.Trainer(
        accelerator="auto",
        max_steps=asked.max_steps,
        default_root_dir=FOLDER,
        logger=False,
        callbacks=[ModelCheckpoint(FOLDER, every_n_train_steps=10, save_last=True)],
    )
    module = Regression(asked.die_at)
    trainer.fit(module, data, ckpt_path="last")  # the first time there is none, and training starts from the beginning
    trainer.print(f"Steps    {trainer.global_step}")
    trainer.print(f"Weights  {module.layer.weight.flatten().tolist()}")


if __name__ == "__main__":
    main()
