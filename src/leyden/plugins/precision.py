"""Precision policies, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.devices.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from leyden.not_offered import absent

__all__ = ["DoublePrecision", "HalfPrecision", "MixedPrecision", "Precision"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.plugins")
