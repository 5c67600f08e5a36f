"""The base of checkpoint storages, where Lightning puts it."""

from leyden.checkpoint.files import CheckpointIO

__all__ = ["CheckpointIO"]
