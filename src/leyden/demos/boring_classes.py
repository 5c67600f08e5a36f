"""The names under which bug reports import small modules."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent
from leyden.testing import (
    BoringDataModule,
    BoringModel,
    ManualOptimBoringModel,
    RandomDataset,
    RandomDictDataset,
    RandomIterableDataset,
    RandomIterableDatasetWithLen,
)

__all__ = [
    "BoringDataModule",
    "BoringModel",
    "ManualOptimBoringModel",
    "RandomDataset",
    "RandomDictDataset",
    "RandomIterableDataset",
    "RandomIterableDatasetWithLen",
]

_LATER = {"DemoModel": "Take BoringModel."}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
