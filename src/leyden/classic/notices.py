"""Say once per process what an old name is called today."""

from __future__ import annotations

from leyden.errors import LegacyNotice, warn_user

noticed: set[str] = set()
"""The old names of which this process was told."""


def notice(name: str, today: str) -> None:
    """Warn that ``name`` is an older Lightning's, unless that was said before."""
    if name not in noticed:
        noticed.add(name)
        warn_user(f"{name} is a name of an older Lightning. It works; today's is {today}.", LegacyNotice)
