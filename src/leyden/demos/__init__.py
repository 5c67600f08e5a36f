"""The names under which bug reports import small modules."""

from __future__ import annotations

from typing import Any

from leyden.not_offered import absent
from leyden.testing import BoringDataModule, BoringModel

__all__ = ["BoringDataModule", "BoringModel"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
