"""CombinedLoader, where 1.x had it."""

from leyden.data.combined import CombinedLoader

__all__ = ["CombinedLoader"]
