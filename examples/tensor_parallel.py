"""A perceptron whose layers lie in parts on two processes: tensor parallelism, by PyTorch's own plan.

    python examples/tensor_parallel.py                                   # two processes, which share every layer
    python examples/tensor_parallel.py --data_parallel 2                 # four: two groups, which share the samples out
    torchrun --nproc-per-node 8 examples/tensor_parallel.py --tensor_parallel 4 --data_parallel 2   # on eight GPUs

`--max_epochs 1 --samples 1024` is a short form. The strategy makes a mesh of the processes, and `configure_model` parallelises
over it: the first layer by its outputs, the second by its inputs, so that the two exchange once forwards and once backwards.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl
from leyden.strategies import ModelParallelStrategy

FOLDER = Path("leyden_logs", "tensor_parallel")


class Perceptron(pl.LightningModule):
    """Tells apart clouds of points; ``up`` and ``down`` are the layers that need many devices."""

    def __init__(self, width: int = 64, learning_rate: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.up, self.down, self.head = nn.Linear(16, width), nn.Linear(width, 32), nn.Linear(32, 4)
        self.learning_rate = learning_rate

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh is None or hasattr(self.up.weight, "placements"):
            return  # one process, or parallelised before
        parallelize_module(self, mesh["tensor_parallel"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        if mesh["data_parallel"].size() > 1:
            fully_shard(self, mesh=mesh["data_parallel"])  # averages the gradients over the groups

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.down(F.relu(self.up(x)))))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), prog_bar=True)
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), self.learning_rate)


def clouds(count: int, seed: int) -> TensorDataset:
    """Points around four centres, and which one it is."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    return TensorDataset(torch.eye(4, 16)[y] + 0.3 * torch.randn(count, 16, generator=generator), y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensor_parallel", type=int, default=2, help="processes that share each layer")
    parser.add_argument("--data_parallel", type=int, default=1, help="groups of them that share the samples out")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--max_epochs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=4096)
    asked = parser.parse_args()
    pl.seed_everything(0)
    trainer = pl.Trainer(
        accelerator=asked.accelerator,
        devices=asked.tensor_parallel * asked.data_parallel,
        strategy=ModelParallelStrategy(asked.data_parallel, asked.tensor_parallel),
        max_epochs=asked.max_epochs,
        default_root_dir=FOLDER,
        logger=False,
    )
    module = Perceptron()
    trainer.fit(module, DataLoader(clouds(asked.samples, 1), 32, shuffle=True), DataLoader(clouds(512, 2), 128))
    trainer.print(f"Accuracy         {float(trainer.callback_metrics['val_acc']):.3f}")
    trainer.print(f"Rows of up here  {len(module.up.weight.to_local())} of {len(module.up.weight)}")
    trainer.print(f"Checkpoint       {trainer.checkpoint_callback.best_model_path}")  # a folder, into which each process wrote


if __name__ == "__main__":
    main()
