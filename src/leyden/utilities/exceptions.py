"""Errors, where Lightning's documents put them."""

from leyden.errors import MisconfigurationException
from leyden.errors import TrainingTerminated as SIGTERMException

__all__ = ["MisconfigurationException", "SIGTERMException"]
