"""How long a standstill of several processes is borne, and how often they are started again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from leyden.checked import check_count, read_duration
from leyden.errors import InvalidOption

DEFAULT = 1200.0
"""Seconds: longer than a step, a validation batch or a hook takes; shorter than what torch waits for an answer."""


@dataclass(frozen=True, kw_only=True)
class Vigilance:
    """What the Trainer's ``hang_timeout`` and ``max_restarts`` ask for."""

    seconds: float | None = DEFAULT  # None: a standstill is borne for ever
    restarts: int = 0

    @classmethod
    def read(cls, hang_timeout: Any = DEFAULT, max_restarts: Any = 0) -> Vigilance:
        """``hang_timeout``: seconds, or a time as ``max_time`` takes it; ``None`` for no limit."""
        seconds: float | None
        if hang_timeout is None:
            seconds = None
        elif isinstance(hang_timeout, int | float) and not isinstance(hang_timeout, bool):
            seconds = float(hang_timeout)
        elif isinstance(hang_timeout, str | timedelta | Mapping):
            duration = read_duration("hang_timeout", hang_timeout)
            assert duration is not None
            seconds = duration.total_seconds()
        else:
            raise InvalidOption("hang_timeout", hang_timeout, 'seconds, "DD:HH:MM:SS", a timedelta, a dict, or None for no limit')
        if seconds is not None and not seconds > 0:
            raise InvalidOption("hang_timeout", hang_timeout, "a time longer than zero, or None for no limit")
        return cls(seconds=seconds, restarts=check_count("max_restarts", max_restarts, 0, "a number of restarts >= 0"))
