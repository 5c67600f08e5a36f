"""Which functions the time went to, by Python's own profiler."""

import io
import os
from typing import TYPE_CHECKING

from leyden.errors import InvalidOption
from leyden.profilers.base import Profiler
from leyden.spelling import exact_arguments

if TYPE_CHECKING:
    from cProfile import Profile


@exact_arguments
class AdvancedProfiler(Profiler):
    """Runs cProfile in each action, and lists its functions by cumulative time.

    Python has room for one such profiler at a time, so what belongs to an action within another is listed there only.

    Args:
        line_count_restriction: how much of each list is shown: a number of lines, or (a float up to 1.0) a share of it.
        dump_stats: also write each action's figures to ``{dirpath}/{stage}-{filename}-{action}.prof``, for ``pstats``.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        line_count_restriction: float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        self.line_count_restriction = line_count_restriction
        self.dump_stats = dump_stats
        self.profiled_actions: dict[str, Profile] = {}
        self._running: list[str] = []

    def start(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action is running already."""
        from cProfile import Profile

        if action_name in self._running:
            raise InvalidOption("action_name", action_name, "an action that is not running: it was started and not stopped")
        if self._running:
            self.profiled_actions[self._running[-1]].disable()
        self._running.append(action_name)
        self.profiled_actions.setdefault(action_name, Profile()).enable()

    def stop(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action was never started."""
        if action_name not in self._running:
            raise InvalidOption("action_name", action_name, "an action that is running: it was never started")
        innermost = self._running[-1] == action_name
        if innermost:
            self.profiled_actions[action_name].disable()
        self._running.remove(action_name)
        if innermost and self._running:
            self.profiled_actions[self._running[-1]].enable()

    def summary(self) -> str:
        import pstats

        self._pause()
        reports = []
        for name, profile in self.profiled_actions.items():
            text = io.StringIO()
            pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative").print_stats(self.line_count_restriction)
            reports.append(f"Profile stats for: {name}\n{text.getvalue().strip()}\n")
        return "Profiler report\n\n" + "\n".join(reports)

    def describe(self) -> None:
        super().describe()
        if self.dump_stats:
            for name, profile in self.profiled_actions.items():
                path = self._path(".prof", name)
                path.parent.mkdir(parents=True, exist_ok=True)
                profile.dump_stats(path)

    def teardown(self, stage: str | None) -> None:
        self._pause()
        self.profiled_actions = {}

    def _pause(self) -> None:
        if self._running:
            self.profiled_actions[self._running[-1]].disable()
            self._running.clear()
