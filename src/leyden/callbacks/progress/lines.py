"""The words of a progress bar: durations, counts, rates, metrics, and the line that stays after each epoch."""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Mapping
from typing import Any


def duration(seconds: float) -> str:
    """``h:mm:ss``."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def count(done: int, total: int | None) -> str:
    """``done/total``, or ``done`` alone where the total is unknown."""
    return str(done) if total is None else f"{done}/{total}"


def rate(per_second: float) -> str:
    """Batches a second, or seconds a batch where that is slow; empty where it is not known yet."""
    if per_second <= 0:
        return ""
    return f"{per_second:.1f} it/s" if per_second >= 1 else f"{1 / per_second:.1f} s/it"


def number(value: Any, form: str = ".4g") -> str:
    """A metric's value as text."""
    if isinstance(value, bool | int | str):
        return str(value)
    try:
        return format(float(value), form)
    except (TypeError, ValueError):
        return str(value)


def in_a_line(name: str) -> str:
    """``name`` with what would break a line, or go back in it, as an escape."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def metrics_text(metrics: Mapping[str, Any], between: str = "  ", form: str = ".4g") -> str:
    """All metrics as ``name: value``; a dict's values come with its name before theirs."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            parts += [f"{in_a_line(f'{name}/{inner}')}: {number(part, form)}" for inner, part in value.items()]
        else:
            parts.append(f"{in_a_line(name)}: {number(value, form)}")
    return between.join(parts)


def of_epoch(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics that speak for a whole epoch: without ``x_step`` where there is ``x_epoch``, and without ``v_num``."""
    return {
        name: value
        for name, value in metrics.items()
        if name != "v_num" and not (name.endswith("_step") and f"{name.removesuffix('_step')}_epoch" in metrics)
    }


def epoch_name(epoch: int, epochs: int | None) -> str:
    """``Epoch 1/10``, counted from 1; without the total where there is none."""
    return f"Epoch {count(epoch + 1, epochs if epochs is not None and epochs >= 0 else None)}"


def line(name: str, done: int, total: int | None, seconds: float, metrics: Mapping[str, Any]) -> str:
    """The line that stays: ``Epoch 1/10: 200/200 in 0:00:12, 16.7 it/s, loss: 0.4123``."""
    speed = rate(done / seconds if seconds > 0 else 0)
    head = f"{name}: {count(done, total)} in {duration(seconds)}"
    return ", ".join(part for part in (head, speed, metrics_text(metrics, ", ")) if part)


def fold(text: str, width: int) -> str:
    """``text`` on lines of at most ``width`` columns, broken behind commas only; those that follow the first are indented."""
    folded = ""
    for part in text.split(", "):
        if not folded:
            folded = part
        elif columns(folded.rsplit("\n", 1)[-1]) + columns(part) + 3 <= width:  # with a comma behind it
            folded += f", {part}"
        else:
            folded += f",\n    {part}"
    return folded


def columns(text: str) -> int:
    """How many columns of a terminal ``text`` takes: Chinese characters take two."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF") for each in text)


def cut(text: str, width: int) -> str:
    """As much of ``text`` as fits into ``width`` columns."""
    if columns(text) <= width:
        return text
    while columns(text) > width:
        text = text[:-1]
    return text


class Pace:
    """How fast batches go by: over the last draws, pauses left out. Times in seconds, given by the caller."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=100)
        self._began = 0.0
        self._before = 0.0  # how fast they went by before the pause

    def start(self, now: float, done: int) -> None:
        """Begin to count at ``done`` batches."""
        self._began = now
        self.skip(now, done)
        self._before = 0.0

    def skip(self, now: float, done: int) -> None:
        """Go on after a pause."""
        self._before = self.per_second
        self._seen.clear()
        self._seen.append((now, done))

    def tell(self, now: float, done: int) -> None:
        """``done`` batches are finished."""
        self._seen.append((now, done))

    def elapsed(self, now: float) -> float:
        """Seconds since the start, pauses included."""
        return now - self._began

    @property
    def per_second(self) -> float:
        """Batches a second; 0 where that is not known yet."""
        if len(self._seen) < 2:
            return self._before
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first else self._before

    def remaining(self, done: int, total: int | None) -> float | None:
        """Seconds to go; ``None`` where that is not known."""
        speed = self.per_second
        return None if total is None or speed <= 0 else max(total - done, 0) / speed
