"""Checkpoint storages, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.checkpoint.asynchronous import AsyncCheckpointIO
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.checkpoint.sharded import ShardedCheckpointIO
from leyden.not_offered import absent

__all__ = ["AsyncCheckpointIO", "CheckpointIO", "ShardedCheckpointIO", "TorchCheckpointIO"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.plugins")
