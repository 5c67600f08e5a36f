"""File systems, where older versions put them."""

from leyden.checkpoint.filesystem import get_filesystem

__all__ = ["get_filesystem"]
