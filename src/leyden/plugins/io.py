"""Checkpoint storages, where Lightning's documents put them."""

from leyden.checkpoint.asynchronous import AsyncCheckpointIO
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO

__all__ = ["AsyncCheckpointIO", "CheckpointIO", "TorchCheckpointIO"]
