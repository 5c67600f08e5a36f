"""Leyden: train PyTorch models in PyTorch Lightning's vocabulary."""

from __future__ import annotations

import sys
from logging import getLogger  # by name: leyden.logging is a room of ours
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.devices.seed import seed_everything
from leyden.module import LightningModule
from leyden.not_offered import absent, answers, stand_in
from leyden.spelling import not_a_hook
from leyden.trainer.result import FitResult
from leyden.trainer.trainer import Trainer
from leyden.version import __version__

if TYPE_CHECKING:
    from leyden.classic import data_loader
    from leyden.replaying import replay

_ROOMS = (
    "accelerators",
    "callbacks",
    "cli",
    "core",
    "demos",
    "errors",
    "fabric",
    "loggers",
    "logging",
    "overrides",
    "plugins",
    "profiler",
    "profilers",
    "pt_overrides",
    "root_module",
    "serve",
    "strategies",
    "testing",
    "tuner",
    "utilities",
)


def __getattr__(name: str) -> Any:
    """Rooms are imported when first asked for."""
    if name in _ROOMS:
        import importlib

        return importlib.import_module(f"leyden.{name}")
    if name == "pytorch":  # `import lightning as L`, and then `L.pytorch.callbacks`
        return sys.modules[__name__]
    if name == "_logger":  # programs of 2020 began with `from pytorch_lightning import _logger as log`
        return getLogger("leyden")
    if name == "replay":
        from leyden.replaying import replay

        return replay
    if name == "cli_lightning_logo":
        from leyden.cli.environment import cli_lightning_logo

        return cli_lightning_logo
    if name == "data_loader":
        from leyden.classic import data_loader

        return data_loader
    return absent("leyden", name, [*__all__, *_ROOMS])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})


__all__ = [
    "Callback",
    "FitResult",
    "LightningDataModule",
    "LightningModule",
    "Trainer",
    "__version__",
    "data_loader",
    "not_a_hook",
    "replay",
    "seed_everything",
]

stand_in(f"{__name__}.lite", answers(f"{__name__}.lite", __name__), "Not offered: nothing here can be made.")
