"""Checkpoint storages, where Lightning's documents put them."""

from __future__ import annotations

from typing import Any

from leyden.checkpoint.asynchronous import AsyncCheckpointIO
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO
from leyden.errors import absent

__all__ = ["AsyncCheckpointIO", "CheckpointIO", "TorchCheckpointIO"]

_LATER = {"XLACheckpointIO": "XLA is out of scope: take TorchCheckpointIO."}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
