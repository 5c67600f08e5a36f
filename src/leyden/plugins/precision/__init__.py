"""Precision policies, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.devices.fsdp_precision import FSDPPrecision
from leyden.devices.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from leyden.not_offered import absent

__all__ = ["DoublePrecision", "FSDPPrecision", "HalfPrecision", "MixedPrecision", "Precision"]


OLDER = {
    "DoublePrecisionPlugin": DoublePrecision,
    "FSDPMixedPrecisionPlugin": FSDPPrecision,
    "FSDPPrecisionPlugin": FSDPPrecision,
    "HalfPrecisionPlugin": HalfPrecision,
    "MixedPrecisionPlugin": MixedPrecision,
    "NativeMixedPrecisionPlugin": MixedPrecision,
    "PrecisionPlugin": Precision,
}
"""What 1.x called them."""


def __getattr__(name: str) -> Any:
    if name in OLDER:
        return OLDER[name]
    return absent(__name__, name, __all__, "leyden.plugins")
