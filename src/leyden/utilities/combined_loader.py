"""CombinedLoader, where Lightning's documents put it."""

from leyden.data.combined import CombinedLoader

__all__ = ["CombinedLoader"]
