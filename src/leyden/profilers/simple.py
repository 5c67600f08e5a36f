"""A table of where the time went."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from leyden.errors import InvalidOption
from leyden.profilers.base import Profiler
from leyden.spelling import exact_arguments


@dataclass
class Duration:
    """How often an action ran, and for how many seconds in all."""

    calls: int = 0
    total: float = 0.0
    longest: float = 0.0
    each: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        self.calls += 1
        self.total += seconds
        self.each.append(seconds)
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        return self.total / self.calls if self.calls else 0.0


@exact_arguments
class SimpleProfiler(Profiler):
    """Measures the wall time of each action; the table has one line an action, the costliest first.

    With ``extended=False`` it shows mean and total only. On a GPU, work that was only handed over counts where it is
    waited for.
    """

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None, extended: bool = True) -> None:
        super().__init__(dirpath, filename)
        self.extended = extended
        self.clock: Callable[[], float] = time.perf_counter
        self.durations: dict[str, Duration] = {}
        self.current_actions: dict[str, float] = {}
        self._began: float | None = None

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | os.PathLike[str] | None = None) -> None:
        super().setup(stage, local_rank, log_dir)
        if self._began is None:
            self._began = self.clock()

    def start(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action is running already."""
        now = self.clock()
        if action_name in self.current_actions:
            raise InvalidOption("action_name", action_name, "an action that is not running: it was started and not stopped")
        if self._began is None:
            self._began = now
        self.current_actions[action_name] = now

    def stop(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action was never started."""
        now = self.clock()
        if action_name not in self.current_actions:
            raise InvalidOption("action_name", action_name, "an action that is running: it was never started")
        seconds = now - self.current_actions.pop(action_name)
        self.durations.setdefault(action_name, Duration()).add(seconds)

    @property
    def recorded_durations(self) -> dict[str, list[float]]:
        """The seconds of each time that an action ran."""
        return {name: list(duration.each) for name, duration in self.durations.items()}

    def summary(self) -> str:
        rows = sorted(self.durations.items(), key=lambda item: item[1].total, reverse=True)
        elapsed = self.clock() - (self._began or 0.0) if rows else 0.0
        if self.extended:
            heads = ["Action", "Mean (s)", "Longest (s)", "Calls", "Total (s)", "Share"]
            cells = [
                [name, f"{d.mean:.5g}", f"{d.longest:.5g}", str(d.calls), f"{d.total:.5g}", _share(d.total, elapsed)]
                for name, d in rows
            ]
            cells.insert(0, ["Total", "-", "-", str(sum(d.calls for _, d in rows)), f"{elapsed:.5g}", _share(elapsed, elapsed)])
        else:
            heads = ["Action", "Mean (s)", "Total (s)"]
            cells = [[name, f"{d.mean:.5g}", f"{d.total:.5g}"] for name, d in rows]
        return "Profiler report\n" + table(heads, cells)

    def teardown(self, stage: str | None) -> None:
        self.current_actions.clear()  # a verb that failed leaves its actions running


def _share(part: float, whole: float) -> str:
    return f"{100.0 * part / whole:.1f} %" if whole > 0 else "-"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell; the first is flush left, the others flush right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]

    def line(row: list[str]) -> str:
        first, *others = (
            cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join((first, *others)).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(heads), rule, *(line(row) for row in rows)]) + "\n"
