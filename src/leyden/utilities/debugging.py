"""The error of wrong settings, where 0.6 and 0.7 had it."""

from leyden.errors import MisconfigurationException

__all__ = ["MisconfigurationException"]
