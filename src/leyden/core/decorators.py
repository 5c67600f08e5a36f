"""Decorators of 0.7's and 1.x's modules."""

from leyden.classic.auto_move import auto_move_data
from leyden.classic.loaders import data_loader

__all__ = ["auto_move_data", "data_loader"]
