"""Which functions the time went to, by Python's own profiler."""

import io
import marshal
import os
from typing import TYPE_CHECKING, Any

from leyden.errors import ConflictingOptions, InvalidOption
from leyden.profilers.base import Profiler
from leyden.profilers.older import takes_output_filename
from leyden.spelling import exact_arguments

if TYPE_CHECKING:
    from cProfile import Profile


@exact_arguments
@takes_output_filename
class AdvancedProfiler(Profiler):
    """Runs cProfile in each action, and lists its functions by cumulative time.

    Python has room for one such profiler at a time, so what belongs to an action within another is listed there only.

    Args:
        line_count_restriction: how much of each list is shown: a number of lines, or (a float up to 1.0) a share of it.
        dump_stats: also write each action's figures to ``{dirpath}/{stage}-{filename}-{action}.prof``, for ``pstats``.

    Raises :class:`InvalidOption` for a ``line_count_restriction`` that is neither.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        line_count_restriction: float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        given: Any = line_count_restriction
        if type(given) not in (int, float) or not 0 <= given <= (1.0 if isinstance(given, float) else float("inf")):
            expected = "a number of lines (an int), or a share of them (a float from 0.0 to 1.0)"
            raise InvalidOption("line_count_restriction", line_count_restriction, expected)
        self.line_count_restriction = line_count_restriction
        self.dump_stats = dump_stats
        self.profiled_actions: dict[str, Profile] = {}
        self.leyden_running: list[str] = []

    def start(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action is running already."""
        from cProfile import Profile

        if action_name in self.leyden_running:
            raise InvalidOption("action_name", action_name, "an action that is not running: it was started and not stopped")
        self.leyden_rest()
        self.leyden_running.append(action_name)
        self.profiled_actions.setdefault(action_name, Profile())
        self.leyden_go_on()

    def stop(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action was never started."""
        if action_name not in self.leyden_running:
            raise InvalidOption("action_name", action_name, "an action that is running: it was never started")
        self.leyden_rest()
        self.leyden_running.remove(action_name)
        self.leyden_go_on()

    def leyden_rest(self) -> None:
        if self.leyden_running:
            self.profiled_actions[self.leyden_running[-1]].disable()

    def leyden_go_on(self) -> None:
        """The innermost action is the one that is measured."""
        if self.leyden_running:
            try:
                self.profiled_actions[self.leyden_running[-1]].enable()
            except ValueError as error:  # since Python 3.12
                self.leyden_running.clear()
                raise ConflictingOptions(
                    "Another profiler of Python runs already (python -m cProfile, a debugger or a coverage tool), and there is "
                    "room for one. End it, or use SimpleProfiler."
                ) from error

    def summary(self) -> str:
        import pstats

        self.leyden_rest()
        stats = {}
        for name, profile in self.profiled_actions.items():
            text = io.StringIO()
            pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative").print_stats(self.line_count_restriction)
            stats[name] = f"{text.getvalue().strip()}\n"
        self.leyden_go_on()
        return self._stats_to_str(stats)

    def describe(self) -> None:
        """Write the report, and with ``dump_stats`` the figures.

        Raises :class:`ConflictingOptions` with ``dump_stats=True`` where there is no folder for them.
        """
        super().describe()
        if not self.dump_stats:
            return
        self.leyden_rest()
        for name, profile in self.profiled_actions.items():
            profile.create_stats()
            with self.leyden_open(self._prepare_filename(name, ".prof"), "wb") as file:
                marshal.dump(profile.stats, file)
        self.leyden_go_on()

    def teardown(self, stage: str | None) -> None:
        self.leyden_rest()
        self.leyden_running.clear()
        self.profiled_actions = {}

    def __getstate__(self) -> dict[str, Any]:
        # cProfile's objects can be neither copied nor pickled
        return {**vars(self), "profiled_actions": {}, "leyden_running": []}
