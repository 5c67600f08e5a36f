"""Norms of gradients, where Lightning's documents put them."""

from leyden.inspect.gradients import grad_norm

__all__ = ["grad_norm"]
