"""What ``Trainer(plugins=...)`` takes, by its public names."""

from __future__ import annotations

import importlib
from typing import Any

from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent
from leyden.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from leyden.plugins.io import AsyncCheckpointIO, CheckpointIO, ShardedCheckpointIO, TorchCheckpointIO
from leyden.plugins.layer_sync import LayerSync, TorchSyncBatchNorm
from leyden.plugins.precision import DoublePrecision, FSDPPrecision, HalfPrecision, MixedPrecision, Precision

__all__ = [
    "AsyncCheckpointIO",
    "CheckpointIO",
    "ClusterEnvironment",
    "DoublePrecision",
    "FSDPPrecision",
    "HalfPrecision",
    "LayerSync",
    "LightningEnvironment",
    "MPIEnvironment",
    "MixedPrecision",
    "Precision",
    "SLURMEnvironment",
    "ShardedCheckpointIO",
    "TorchCheckpointIO",
    "TorchElasticEnvironment",
    "TorchSyncBatchNorm",
]


def __getattr__(name: str) -> Any:
    older = importlib.import_module("leyden.plugins.precision").OLDER
    if name in older:
        return older[name]
    if name == "NativeSyncBatchNorm":
        return TorchSyncBatchNorm
    strategies = importlib.import_module("leyden.strategies.former").OLDER_PLUGINS
    if name in strategies:
        return strategies[name]
    return absent(__name__, name, __all__)


stand_in_addresses(__name__)
