"""Precision policies, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.devices.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from leyden.errors import absent

__all__ = ["DoublePrecision", "HalfPrecision", "MixedPrecision", "Precision"]

_LATER = {
    **dict.fromkeys(
        ("BitsandbytesPrecision", "TransformerEnginePrecision", "DeepSpeedPrecision"),
        "It wraps another package. Wrap the tools of PyTorch in a plug-in of your own.",
    ),
    "FSDPPrecision": "Training on several devices is not offered yet: use one, with SingleDeviceStrategy.",
    "XLAPrecision": "XLA is out of scope.",
}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
