"""Saving, where Lightning puts it."""

from leyden.checkpoint.filesystem import get_filesystem

__all__ = ["get_filesystem"]
