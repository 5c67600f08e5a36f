"""Loggers: where metrics go."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leyden.former_addresses import stand_in_addresses
from leyden.loggers.base import Logger
from leyden.loggers.csv import CSVLogger
from leyden.not_offered import absent

if TYPE_CHECKING:
    from leyden.loggers.comet import CometLogger
    from leyden.loggers.mlflow import MLFlowLogger
    from leyden.loggers.tensorboard import TensorBoardLogger
    from leyden.loggers.wandb import WandbLogger

__all__ = ["CSVLogger", "CometLogger", "Logger", "MLFlowLogger", "TensorBoardLogger", "WandbLogger"]

_OLDER = ("LightningLoggerBase", "LoggerCollection", "rank_zero_only")
_FILES = {"CometLogger": "comet", "MLFlowLogger": "mlflow", "TensorBoardLogger": "tensorboard", "WandbLogger": "wandb"}


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return getattr(import_module(f"leyden.loggers.{_FILES[name]}"), name)
    if name in _OLDER:
        from leyden.loggers import base

        return getattr(base, name)
    return absent(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


stand_in_addresses(__name__)
