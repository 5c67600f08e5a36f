"""Profilers, where 0.7 to 1.9 had them; ``Profiler`` is the simple one."""

from leyden.former_addresses import stand_in_addresses
from leyden.profilers.advanced import AdvancedProfiler
from leyden.profilers.base import PassThroughProfiler
from leyden.profilers.base import Profiler as BaseProfiler
from leyden.profilers.pytorch import PyTorchProfiler
from leyden.profilers.simple import SimpleProfiler
from leyden.profilers.simple import SimpleProfiler as Profiler

__all__ = ["AdvancedProfiler", "BaseProfiler", "PassThroughProfiler", "Profiler", "PyTorchProfiler", "SimpleProfiler"]


stand_in_addresses(__name__)
