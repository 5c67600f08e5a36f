"""Optimizers as a module sees them, where Lightning puts them."""

from leyden.state.optimizers import SteppingOptimizer as LightningOptimizer

__all__ = ["LightningOptimizer"]
