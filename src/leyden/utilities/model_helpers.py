"""Whether a method is overridden, where 1.0 to 1.9 asked."""

from leyden.classic.overridden import is_overridden

__all__ = ["is_overridden"]
