"""The Trainer's room."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.errors import absent
from leyden.trainer.trainer import Trainer

__all__ = ["Trainer"]


def __getattr__(name: str) -> Any:
    if name == "states":
        return importlib.import_module("leyden.trainer.states")
    raise absent(__name__, name, {}, __all__)
