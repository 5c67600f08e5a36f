"""The Trainer's room."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.devices.seed import seed_everything
from leyden.not_offered import absent
from leyden.trainer.trainer import Trainer

__all__ = ["Trainer", "seed_everything"]


def __getattr__(name: str) -> Any:
    if name in ("seed", "states", "supporters", "training_io"):
        return importlib.import_module(f"leyden.trainer.{name}")
    return absent(__name__, name, __all__)
