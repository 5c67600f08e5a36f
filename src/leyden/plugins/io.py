"""Checkpoint storages, where Lightning's documents put them."""

from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO

__all__ = ["CheckpointIO", "TorchCheckpointIO"]
