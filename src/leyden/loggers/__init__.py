"""Loggers: where metrics go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.errors import NotOffered, absent
from leyden.loggers.base import Logger
from leyden.loggers.csv import CSVLogger

if TYPE_CHECKING:
    from leyden.loggers.tensorboard import TensorBoardLogger

__all__ = ["CSVLogger", "Logger", "TensorBoardLogger"]

_OLDER = ("LightningLoggerBase", "LoggerCollection", "rank_zero_only")
_NOT_OFFERED = ("CometLogger", "LitLogger", "MLFlowLogger", "NeptuneLogger", "WandbLogger")


def __getattr__(name: str) -> Any:
    if name == "TensorBoardLogger":
        from leyden.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger
    if name in _OLDER:
        from leyden.loggers import base

        return getattr(base, name)
    if name in _NOT_OFFERED:
        raise NotOffered(
            f"leyden.loggers does not offer {name} yet. Take CSVLogger or TensorBoardLogger, or subclass leyden.loggers.Logger: "
            f"override name, version, log_metrics and log_hyperparams."
        )
    raise absent(__name__, name, {}, __all__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
