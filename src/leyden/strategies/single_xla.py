"""Strategies that are not offered, where Lightning has them."""

from typing import Any

from leyden.not_offered import absent

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.strategies")
