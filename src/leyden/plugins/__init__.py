"""What ``Trainer(plugins=...)`` takes, by its public names."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.not_offered import absent
from leyden.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from leyden.plugins.io import AsyncCheckpointIO, CheckpointIO, TorchCheckpointIO
from leyden.plugins.precision import DoublePrecision, HalfPrecision, MixedPrecision, Precision

__all__ = [
    "AsyncCheckpointIO",
    "CheckpointIO",
    "ClusterEnvironment",
    "DoublePrecision",
    "HalfPrecision",
    "LightningEnvironment",
    "MixedPrecision",
    "Precision",
    "SLURMEnvironment",
    "TorchCheckpointIO",
    "TorchElasticEnvironment",
]


_OLDER = {
    "DoublePrecisionPlugin": DoublePrecision,
    "HalfPrecisionPlugin": HalfPrecision,
    "MixedPrecisionPlugin": MixedPrecision,
    "NativeMixedPrecisionPlugin": MixedPrecision,
    "PrecisionPlugin": Precision,
}
"""What 1.x called them."""


def __getattr__(name: str) -> Any:
    if name in _OLDER:
        return _OLDER[name]
    if name == "SingleDevicePlugin":
        return importlib.import_module("leyden.strategies.single").SingleDeviceStrategy
    return absent(__name__, name, __all__)
