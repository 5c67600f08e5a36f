"""Compiled modules: the names of :mod:`leyden.inspect.compiled`."""

from __future__ import annotations

from typing import Any

from leyden.inspect.compiled import from_compiled, to_uncompiled
from leyden.not_offered import absent

__all__ = ["from_compiled", "to_uncompiled"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__)
