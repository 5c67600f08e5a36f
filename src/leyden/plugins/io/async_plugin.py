"""Checkpoints written aside, where Lightning puts them."""

from leyden.checkpoint.asynchronous import AsyncCheckpointIO

__all__ = ["AsyncCheckpointIO"]
