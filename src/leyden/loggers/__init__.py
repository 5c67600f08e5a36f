"""Loggers: where metrics go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.loggers.base import Logger
from leyden.loggers.csv import CSVLogger
from leyden.not_offered import absent

if TYPE_CHECKING:
    from leyden.loggers.tensorboard import TensorBoardLogger

__all__ = ["CSVLogger", "Logger", "TensorBoardLogger"]

_OLDER = ("LightningLoggerBase", "LoggerCollection", "rank_zero_only")


def __getattr__(name: str) -> Any:
    if name == "TensorBoardLogger":
        from leyden.loggers.tensorboard import TensorBoardLogger

        return TensorBoardLogger
    if name in _OLDER:
        from leyden.loggers import base

        return getattr(base, name)
    return absent(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
