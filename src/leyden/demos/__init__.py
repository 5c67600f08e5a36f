"""The names under which bug reports and Lightning's documents import small modules."""

from __future__ import annotations

from typing import Any

from leyden.demos.transformer import LightningTransformer, Transformer, WikiText2
from leyden.not_offered import absent
from leyden.testing import BoringDataModule, BoringModel, DemoModel

__all__ = ["BoringDataModule", "BoringModel", "DemoModel", "LightningTransformer", "Transformer", "WikiText2"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
