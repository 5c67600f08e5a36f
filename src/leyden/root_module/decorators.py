"""Decorators, where 0.5 had it."""

from leyden.classic.loaders import data_loader

__all__ = ["data_loader"]
