"""One notice a script that lists the old names it uses, and what they are today."""

from __future__ import annotations

from leyden.errors import LegacyNotice, warn_user

noticed: set[str] = set()
"""The old names of which this process was told, or will be."""
waiting: dict[str, str] = {}
"""Those of which it will be told when a verb begins or ends: today's word for each."""


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
    warn_user(
        "These are names of an older Lightning. They work; beside each stands today's.\n" + "\n".join(lines),
        LegacyNotice,
    )
