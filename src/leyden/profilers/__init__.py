"""Profilers, by their public names."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent
from leyden.profilers.advanced import AdvancedProfiler
from leyden.profilers.base import PassThroughProfiler, Profiler
from leyden.profilers.pytorch import PyTorchProfiler
from leyden.profilers.simple import SimpleProfiler

__all__ = ["AdvancedProfiler", "PassThroughProfiler", "Profiler", "PyTorchProfiler", "SimpleProfiler"]

_LATER = {"XLAProfiler": "XLA is out of scope: take PyTorchProfiler."}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
