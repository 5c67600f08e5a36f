"""Strategies, by their public names."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent
from leyden.strategies.base import Strategy
from leyden.strategies.single import SingleDeviceStrategy

__all__ = ["SingleDeviceStrategy", "Strategy"]

_LATER = {
    **dict.fromkeys(
        ("DDPStrategy", "FSDPStrategy", "ModelParallelStrategy", "ParallelStrategy"),
        "Training on several devices is not offered yet: use one, with SingleDeviceStrategy.",
    ),
    "DeepSpeedStrategy": "It wraps another package. Wrap the tools of PyTorch in a plug-in of your own.",
    **dict.fromkeys(
        ("XLAStrategy", "SingleDeviceXLAStrategy"),
        "XLA is out of scope.",
    ),
}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
