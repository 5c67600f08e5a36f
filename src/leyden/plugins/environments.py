"""Cluster environments, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.distributed.environment import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from leyden.errors import absent

__all__ = ["ClusterEnvironment", "LightningEnvironment", "SLURMEnvironment", "TorchElasticEnvironment"]

_LATER = {
    **dict.fromkeys(
        ("KubeflowEnvironment", "LSFEnvironment", "MPIEnvironment", "XLAEnvironment"),
        "The variables that torchrun sets cover it: take TorchElasticEnvironment.",
    ),
}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
