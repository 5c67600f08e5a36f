"""Cluster environments, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.distributed.environment import (
    ClusterEnvironment,
    LightningEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from leyden.not_offered import absent

__all__ = ["ClusterEnvironment", "LightningEnvironment", "MPIEnvironment", "SLURMEnvironment", "TorchElasticEnvironment"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.plugins")
