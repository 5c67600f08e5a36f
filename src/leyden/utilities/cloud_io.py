"""Checkpoints and file systems, where older versions put them."""

from leyden.checkpoint.files import load
from leyden.checkpoint.files import load as _load
from leyden.checkpoint.filesystem import get_filesystem

__all__ = ["_load", "get_filesystem", "load"]
