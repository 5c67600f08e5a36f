"""Loggers, where 0.5 to 0.7 had them."""

from typing import Any

from leyden import loggers
from leyden.notices import notice

notice("leyden.logging", "leyden.loggers")


def __getattr__(name: str) -> Any:
    return getattr(loggers, name)
