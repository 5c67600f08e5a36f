"""What steps returned in 0.9 and 1.0: not offered."""

from __future__ import annotations

from typing import Any

from leyden.not_offered import absent

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden")
