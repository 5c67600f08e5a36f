"""Processes that are spawned, where 1.x had them."""

from typing import Any

from leyden.not_offered import absent
from leyden.strategies.former import DDPSpawnStrategy

__all__ = ["DDPSpawnStrategy"]


def __getattr__(name: str) -> Any:
    return absent(__name__, name, __all__, "leyden.strategies")
