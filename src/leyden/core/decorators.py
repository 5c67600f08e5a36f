"""Decorators of 0.7's modules."""

from leyden.classic.loaders import data_loader

__all__ = ["data_loader"]
