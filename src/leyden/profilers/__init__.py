"""Profilers, by their public names."""

from leyden.profilers.advanced import AdvancedProfiler
from leyden.profilers.base import PassThroughProfiler, Profiler
from leyden.profilers.pytorch import PyTorchProfiler
from leyden.profilers.simple import SimpleProfiler

__all__ = ["AdvancedProfiler", "PassThroughProfiler", "Profiler", "PyTorchProfiler", "SimpleProfiler"]
