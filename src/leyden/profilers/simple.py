"""Tables of where the time went."""

import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from leyden.errors import InvalidOption
from leyden.profilers.base import Profiler
from leyden.profilers.older import takes_output_filename
from leyden.profilers.parts import EPOCH, Path, parts_of
from leyden.spelling import exact_arguments


@exact_arguments
@takes_output_filename
class SimpleProfiler(Profiler):
    """Measures the wall time of each action.

    The report has two tables: one line an action, the costliest first, where an action's time includes that of actions inside
    it; and the parts of the training epochs, whose times add up (:meth:`leyden_parts`). With ``extended=False`` the first shows
    mean and total only, and the second is left out. On a GPU, work that was only handed over counts where it is waited for.

    Attributes:
        recorded_durations: the seconds of each time that an action ran, by its name.
        start_time: when the first verb, or the first action outside of any, began.
    """

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None, extended: bool = True) -> None:
        super().__init__(dirpath, filename)
        self.extended = extended
        self.leyden_clock: Callable[[], float] = time.perf_counter
        self.recorded_durations: dict[str, list[float]] = defaultdict(list)
        self.start_time = self.leyden_clock()
        self.leyden_begun = False
        self.leyden_paths: dict[int, Path] = {}  # by thread: actions of another one lie in none of ours
        self.leyden_measured_in = threading.get_ident()

    @property
    def current_actions(self) -> dict[str, float]:
        """When each action that runs in this thread was started."""
        return dict(self.leyden_path().began)

    def leyden_path(self) -> Path:
        thread = threading.get_ident()
        path = self.leyden_paths.get(thread)
        if path is None:
            path = self.leyden_paths[thread] = Path()
        return path

    def leyden_begin(self) -> None:
        if not self.leyden_begun:
            self.leyden_begun, self.start_time = True, self.leyden_clock()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | os.PathLike[str] | None = None) -> None:
        super().setup(stage, local_rank, log_dir)
        self.leyden_measured_in = threading.get_ident()
        self.leyden_begin()

    def start(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action is running already."""
        path = self.leyden_path()
        if action_name in path.began:
            raise InvalidOption("action_name", action_name, "an action that is not running: it was started and not stopped")
        self.leyden_begin()
        path.enter(action_name, self.leyden_clock())

    def stop(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action was never started."""
        now, path = self.leyden_clock(), self.leyden_path()
        if action_name not in path.began:
            raise InvalidOption("action_name", action_name, "an action that is running: it was never started")
        self.recorded_durations[action_name].append(path.leave(action_name, now))

    def leyden_parts(self) -> dict[str, float]:
        """Seconds of each part of all training epochs until now; their sum is how long these took.

        ``data``, ``transfer``, ``forward``, ``backward``, ``optimizer``, ``logging``, ``validation``, ``checkpoints``, the hooks
        of the module and of each callback, actions of one's own, and ``loop``: the rest. No moment is counted in two of them.
        """
        path = self.leyden_paths.get(self.leyden_measured_in)
        return {} if path is None else parts_of(path.root)

    def summary(self) -> str:
        rows = [(name, math.fsum(each), len(each)) for name, each in self.recorded_durations.items() if each]
        elapsed = self.leyden_clock() - self.start_time
        if not self.extended:
            rows.sort(key=lambda row: row[1] / row[2], reverse=True)
            cells = [[name, f"{total / calls:.5}", f"{total:.5}"] for name, total, calls in rows]
            return f"{self.leyden_heading()}\n" + table(["Action", "Mean duration (s)", "Total time (s)"], cells)
        rows.sort(key=lambda row: row[1], reverse=True)
        heads = ["Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"]
        cells = [["Total", "-", str(sum(calls for _, _, calls in rows)), f"{elapsed:.5}", "100 %"]]
        for name, total, calls in rows:
            cells.append([name, f"{total / calls:.5}", str(calls), f"{total:.5}", percentage(total, elapsed)])
        return f"{self.leyden_heading()}\n" + table(heads, cells, lines_above=1) + self.leyden_table_of_parts()

    def leyden_table_of_parts(self) -> str:
        parts = self.leyden_parts()
        whole, steps = math.fsum(parts.values()), len(self.recorded_durations.get("run_training_batch", ()))
        if not whole or not steps:
            return ""
        rows = sorted(parts.items(), key=lambda part: part[1], reverse=True)
        cells = [["Sum", f"{whole / steps:.5}", f"{whole:.5}", "100 %"]]
        cells += [[name, f"{seconds / steps:.5}", f"{seconds:.5}", percentage(seconds, whole)] for name, seconds in rows]
        heads = ["Part", "Per batch (s)", "Total time (s)", "Percentage %"]
        return f"\nWhere {EPOCH} went: {steps} training batches\n" + table(heads, cells, lines_above=1)

    def teardown(self, stage: str | None) -> None:
        for path in self.leyden_paths.values():
            path.abandon()  # a verb that failed leaves its actions running


def percentage(part: float, whole: float) -> str:
    return f"{100.0 * part / whole:.5}" if whole > 0 else "-"


def table(heads: list[str], rows: list[list[str]], lines_above: int = 0) -> str:
    """Columns between bars, as wide as their widest cell; the first is flush left, the others flush right.

    The first ``lines_above`` rows have a rule of their own under them.
    """
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]

    def line(row: list[str]) -> str:
        cells = (cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
        return "|  " + "  |  ".join(cells) + "  |"

    rule = "-" * len(line(heads))
    above = [line(row) for row in rows[:lines_above]] + [rule] * bool(lines_above)
    return "\n".join([rule, line(heads), rule, *above, *(line(row) for row in rows[lines_above:]), rule]) + "\n"
