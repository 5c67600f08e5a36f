"""The logger of 0.5 to 0.7, where that had it: not offered."""

from __future__ import annotations

from typing import Any

from leyden.not_offered import absent

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.loggers")
