"""The command line, where 1.x had it."""

from __future__ import annotations

from typing import Any

from leyden import cli
from leyden.cli.older import (
    CALLBACK_REGISTRY,
    DATAMODULE_REGISTRY,
    LOGGER_REGISTRY,
    LR_SCHEDULER_REGISTRY,
    MODEL_REGISTRY,
    OPTIMIZER_REGISTRY,
)
from leyden.not_offered import absent

__all__ = [
    "CALLBACK_REGISTRY",
    "DATAMODULE_REGISTRY",
    "LOGGER_REGISTRY",
    "LR_SCHEDULER_REGISTRY",
    "MODEL_REGISTRY",
    "OPTIMIZER_REGISTRY",
]


def __getattr__(name: str) -> Any:
    return getattr(cli, name) if hasattr(cli, name) else absent(__name__, name, cli.__all__, "leyden.cli")
