"""What ``Trainer(plugins=...)`` takes, by its public names."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent
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

_LATER = {
    **dict.fromkeys(
        ("BitsandbytesPrecision", "TransformerEnginePrecision", "DeepSpeedPrecision"),
        "It wraps another package. Wrap the tools of PyTorch in a plug-in of your own.",
    ),
    **dict.fromkeys(
        ("FSDPPrecision", "LayerSync", "TorchSyncBatchNorm"),
        "Training on several devices is not offered yet: use one, with SingleDeviceStrategy.",
    ),
    "XLAPrecision": "XLA is out of scope.",
    "XLACheckpointIO": "XLA is out of scope: take TorchCheckpointIO.",
    **dict.fromkeys(
        ("KubeflowEnvironment", "LSFEnvironment", "MPIEnvironment", "XLAEnvironment"),
        "The variables that torchrun sets cover it: take TorchElasticEnvironment.",
    ),
}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
