"""Module and datamodule, where Lightning puts them."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.core.datamodule import LightningDataModule
from leyden.core.module import LightningModule
from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent

__all__ = ["LightningDataModule", "LightningModule"]

_FILES = (
    *("decorators", "grads", "hooks", "lightning", "memory", "mixins", "model_saving", "optimizer", "root_module", "saving"),
    "step_result",
)


def __getattr__(name: str) -> Any:
    if name in _FILES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "data_loader":
        return importlib.import_module(f"{__name__}.decorators").data_loader
    return absent(__name__, name, [*__all__, *_FILES])


stand_in_addresses(__name__)
