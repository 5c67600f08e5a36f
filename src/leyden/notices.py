"""One notice a script that lists the old names it uses, and what they are today."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

from leyden.errors import LegacyNotice

noticed: set[str] = set()
"""The old names of which this process was told, or will be."""
waiting: dict[str, str] = {}
"""Those of which it will be told when a verb begins or ends: today's word for each."""
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep


def notice(name: str, today: str) -> None:
    """Note that ``name``, an older Lightning's, was used."""
    if name not in noticed:
        noticed.add(name)
        waiting[name] = today


def tell() -> None:
    """Warn of all that was noted since the last time, at the line of the user's that brought us here."""
    if not waiting:
        return
    width = min(max(map(len, waiting)), 40)
    lines = [f"  {name:<{width}}  {today}" for name, today in waiting.items()]
    waiting.clear()
    warnings.warn(
        "These are names of an older Lightning. They work; beside each stands today's.\n" + "\n".join(lines),
        LegacyNotice,
        stacklevel=_level_of_user(),
    )


def _level_of_user() -> int:
    """How many frames above :func:`tell` the user's code stands."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_OURS, contextlib.__file__)):
        level, frame = level + 1, frame.f_back
    return level
