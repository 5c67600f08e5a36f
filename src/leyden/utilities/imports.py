"""Whether packages are installed, where Lightning asks."""

from __future__ import annotations

from typing import Any

from leyden.classic.packages import IS_WINDOWS as _IS_WINDOWS
from leyden.classic.packages import compare_version as _compare_version
from leyden.classic.packages import flag
from leyden.classic.packages import module_available as _module_available
from leyden.classic.packages import package_available as _package_available

__all__ = ["_IS_WINDOWS", "_compare_version", "_module_available", "_package_available"]


def __getattr__(name: str) -> Any:
    return flag(name)
