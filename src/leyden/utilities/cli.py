"""The command line, where 1.x had it."""

from __future__ import annotations

from typing import Any

from leyden import cli
from leyden.not_offered import absent

__all__: list[str] = []


def __getattr__(name: str) -> Any:
    return getattr(cli, name) if hasattr(cli, name) else absent(__name__, name, cli.__all__, "leyden.cli")
