"""Names of the loggers of 0.7 to 1.9."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from typing import Any

from leyden.distributed.rank_zero import rank_zero_only as rank_zero_only
from leyden.loggers.base import Logger

LightningLoggerBase = Logger


class LoggerCollection(Logger):
    """Several loggers as one: what it is told, it tells each of them."""

    def __init__(self, logger_iterable: Iterable[Logger]) -> None:
        self._loggers = list(logger_iterable)

    def __getitem__(self, index: int) -> Logger:
        return self._loggers[index]

    def __len__(self) -> int:
        return len(self._loggers)

    @property
    def name(self) -> str:
        return "_".join(str(logger.name) for logger in self._loggers)

    @property
    def version(self) -> str:
        return "_".join(str(logger.version) for logger in self._loggers)

    @property
    def save_dir(self) -> str | None:
        return self._loggers[0].save_dir if self._loggers else None

    @property
    def log_dir(self) -> str | None:
        return self._loggers[0].log_dir if self._loggers else None

    @property
    def experiment(self) -> list[Any]:
        return [logger.experiment for logger in self._loggers]

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        for logger in self._loggers:
            logger.log_metrics(metrics, step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        for logger in self._loggers:
            logger.log_hyperparams(params, *args, **kwargs)

    def save(self) -> None:
        for logger in self._loggers:
            logger.save()

    def finalize(self, status: str) -> None:
        for logger in self._loggers:
            logger.finalize(status)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()
