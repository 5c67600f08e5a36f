"""Loggers: where metrics go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.errors import NotOffered, UnknownName, did_you_mean
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
        from leyden.loggers import older

        return getattr(older, name)
    if name in _NOT_OFFERED:
        raise NotOffered(
            f"leyden.loggers does not offer {name} yet. Take CSVLogger or TensorBoardLogger, or subclass leyden.loggers.Logger: "
            f"override name, version, log_metrics and log_hyperparams."
        )
    if name.startswith("__"):
        raise AttributeError(name)
    raise UnknownName(f"leyden.loggers has no {name!r}.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
