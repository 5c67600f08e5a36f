"""The base of profilers, where 1.5 to 1.9 had it."""

from leyden.profilers.base import PassThroughProfiler, Profiler
from leyden.profilers.base import Profiler as BaseProfiler

__all__ = ["BaseProfiler", "PassThroughProfiler", "Profiler"]
