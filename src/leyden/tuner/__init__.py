"""Finders of a learning rate and a batch size."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent

if TYPE_CHECKING:
    from leyden.tuner.tuning import Tuner

__all__ = ["Tuner"]


def __getattr__(name: str) -> Any:
    if name == "Tuner":
        value = importlib.import_module("leyden.tuner.tuning").Tuner
        globals()[name] = value
        return value
    if name in ("batch_size_scaling", "lr_finder", "tuning"):
        return importlib.import_module(f"leyden.tuner.{name}")
    return absent(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


stand_in_addresses(__name__)
