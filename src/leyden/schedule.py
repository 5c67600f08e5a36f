"""'Every so often' as an object: time and counts come in as arguments, nothing in here reads a clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise


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


def windows_in(batches: int, epochs: int, schedule: Mapping[int, int]) -> int:
    """Steps in ``epochs`` of so many ``batches``, the last of each in a window of its own where it is left over.

    ``schedule`` says from which epoch on how many batches make a step; before the first it is one.
    """
    windows = {0: 1, **schedule}
    begins = [min(epoch, epochs) for epoch in (*sorted(windows), epochs)]
    steps = [-(-batches // windows[epoch]) for epoch in sorted(windows)]
    return sum(each * (then - first) for each, (first, then) in zip(steps, pairwise(begins), strict=True))
