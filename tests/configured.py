"""Classes that the tests of the command line name in configurations: a module of their own, so that they can be imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from leyden.cli import LightningCLI, LRSchedulerCallable, OptimizerCallable, instantiate_class
from leyden.testing import BoringDataModule, BoringModel


class Encoder(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.width = width


class DeepEncoder(Encoder):
    def __init__(self, width: int = 5, depth: int = 2) -> None:
        super().__init__(width)
        self.depth = depth


class WideNet(BoringModel):
    """A net.

    Args:
        width: how wide the net is.
        encoder: what reads.
        rate: how fast it learns.
    """

    def __init__(self, width: int = 4, encoder: Encoder | None = None, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.width, self.encoder, self.rate = width, encoder, rate


class Inner(BoringModel):
    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.save_hyperparameters()


class Outer(BoringModel):
    """A module that makes another one inside its constructor."""

    def __init__(self, size: int = 2) -> None:
        super().__init__()
        self.inner = Inner(size + 1)
        self.save_hyperparameters()


class Loads(BoringDataModule):
    def __init__(self, batch: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.batch, self.classes = batch, 10


class Chosen(BoringModel):
    """A module whose optimizer and scheduler are arguments."""

    def __init__(
        self,
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable = torch.optim.lr_scheduler.ConstantLR,
        activation: Callable[..., Any] = torch.relu,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.optimizer, self.scheduler, self.activation = optimizer, scheduler, activation

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return [optimizer], [self.scheduler(optimizer)]


class TwoOptimizers(BoringModel):
    def __init__(self, one: dict, other: dict) -> None:  # type: ignore[type-arg]  # as programs write it
        super().__init__()
        self.one, self.other = one, other

    def configure_optimizers(self) -> Any:
        return [instantiate_class(self.parameters(), self.one), instantiate_class(self.parameters(), self.other)]


class Anything(BoringModel):
    """A module with an argument that says no type."""

    def __init__(self, thing: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.thing = thing


class OnlyFit(LightningCLI):
    """One subcommand instead of four: the parser is made in a quarter of the time."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {"fit": LightningCLI.subcommands()["fit"]}
