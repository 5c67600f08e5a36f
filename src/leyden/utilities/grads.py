"""Norms of gradients, where Lightning's documents put them."""

from leyden.state.gradients import grad_norm

__all__ = ["grad_norm"]
