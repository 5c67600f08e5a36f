"""A Trainer inside the workers of Ray Train: Ray starts the processes and their group, and leyden joins it.

    python examples/cluster/ray_train.py                     # two workers on this machine
    python examples/cluster/ray_train.py --workers 16 --gpu  # on the cluster that RAY_ADDRESS names

Needs Ray: pip install 'ray[train]'. `make test-ray` runs it in an environment of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden as pl


class Regression(pl.LightningModule):
    """Learns the sum of four numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.layer(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def train(config: dict[str, Any]) -> None:
    """What each worker runs. `devices`, `num_nodes` and who is who are known: nothing is started again."""
    from ray.train import Checkpoint, get_context, report

    pl.seed_everything(0)
    numbers = torch.randn(4096, 4)
    data = DataLoader(TensorDataset(numbers, numbers.sum(1, keepdim=True)), 64, shuffle=True)
    trainer = pl.Trainer(max_epochs=config["epochs"], default_root_dir=config["folder"], log_every_n_steps=10)
    module = Regression()
    trainer.fit(module, data)

    context = get_context()
    assert (trainer.global_rank, trainer.world_size) == (context.get_world_rank(), context.get_world_size())
    weights = trainer.strategy.all_gather(module.layer.weight.detach())
    found = {
        "loss": float(trainer.callback_metrics["loss_epoch"]),
        "steps": trainer.global_step,
        "alike": bool((weights == weights[0]).all()),
    }
    with tempfile.TemporaryDirectory() as folder:  # Ray keeps the first worker's, under storage_path
        trainer.save_checkpoint(Path(trainer.strategy.broadcast(folder), "last.ckpt"))
        report(found, checkpoint=Checkpoint.from_directory(folder) if trainer.is_global_zero else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--gpu", action="store_true", help="each worker has a GPU")
    asked = parser.parse_args()
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with tempfile.TemporaryDirectory() as folder:  # on a cluster: a folder that all machines see
        ray_trainer = TorchTrainer(
            train,
            train_loop_config={"epochs": asked.epochs, "folder": folder},
            scaling_config=ScalingConfig(num_workers=asked.workers, use_gpu=asked.gpu),
            run_config=RunConfig(storage_path=folder),
        )
        result = ray_trainer.fit()
        found = result.metrics
        with result.checkpoint.as_directory() as where:
            module = Regression.load_from_checkpoint(Path(where, "last.ckpt"))
    print(f"Workers        {asked.workers}")
    print(f"Steps          {found['steps']}")
    print(f"Loss           {found['loss']:.6f}")
    print(f"Same weights   {found['alike']}")
    print(f"Weights        {[round(weight, 3) for weight in module.layer.weight.flatten().tolist()]}")


if __name__ == "__main__":
    main()
