"""'Every so often' as an object: time and counts come in as arguments, nothing in here reads a clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EveryN:
    """True on every n-th count: ``EveryN(3)`` holds for 3, 6, 9 ...; ``EveryN(0)`` never holds."""

    n: int

    def __call__(self, count: int) -> bool:
        return self.n > 0 and count > 0 and count % self.n == 0


@dataclass(slots=True)
class EveryDuration:
    """True when at least ``seconds`` have passed since the last time it was true (or since :meth:`start`)."""

    seconds: float
    last: float | None = None

    def start(self, now: float) -> None:
        """Count from ``now`` on, where nothing has been counted yet."""
        if self.last is None:
            self.last = now

    def __call__(self, now: float) -> bool:
        if self.last is None:
            self.last = now
            return False
        over = self.is_over(now)
        if over:
            self.last = now
        return over

    def is_over(self, now: float) -> bool:
        """Whether it would be true, asked ``now``."""
        return self.last is not None and now - self.last >= self.seconds
