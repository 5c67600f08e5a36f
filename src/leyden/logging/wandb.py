"""The logger of wandb, where 0.5 to 0.7 had it."""

from leyden.loggers.wandb import WandbLogger

__all__ = ["WandbLogger"]
