"""Profilers, by their public names."""

from __future__ import annotations

from typing import Any

from leyden.not_offered import absent
from leyden.profilers.advanced import AdvancedProfiler
from leyden.profilers.base import PassThroughProfiler, Profiler
from leyden.profilers.pytorch import PyTorchProfiler
from leyden.profilers.simple import SimpleProfiler

__all__ = ["AdvancedProfiler", "PassThroughProfiler", "Profiler", "PyTorchProfiler", "SimpleProfiler"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
