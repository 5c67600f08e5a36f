"""The base of profilers, where Lightning puts it."""

from leyden.profilers.base import Profiler

__all__ = ["Profiler"]
