"""Optimizers as a module sees them, where Lightning puts them."""

from leyden.devices.precision_names import no_closure as do_nothing_closure
from leyden.state.optimizers import SteppingOptimizer as LightningOptimizer

__all__ = ["LightningOptimizer", "do_nothing_closure"]
