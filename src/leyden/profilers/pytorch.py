"""Which operators the time went to, on CPU and GPU, by PyTorch's own profiler."""

import inspect
import os
from typing import Any

import torch.profiler
from torch.profiler import profile as TorchProfile
from torch.profiler import record_function

from leyden.errors import InvalidOption, UnknownName, did_you_mean
from leyden.profilers.base import Profiler
from leyden.spelling import arguments_of, refuse_unknown

STEP = "run_training_batch"
"""The action whose end is a step of the profiler's schedule; evaluation has no schedule of its own."""


class UnknownTableOption(UnknownName, KeyError):
    """``table_kwargs`` holds a key that is no option of the table, or one that has an argument of its own."""


class PyTorchProfiler(Profiler):
    """Runs ``torch.profiler.profile`` over a verb, with each action marked by ``record_function``.

    Args:
        group_by_input_shapes: count an operator once for each shape of its inputs.
        export_to_chrome: write a trace for ``chrome://tracing`` beside the report (where there is a folder for it).
        row_limit: lines of the report; -1 for all.
        sort_by_key: the column by which operators are sorted; the total time of the device by default.
        table_kwargs: for the report's table, ``torch.autograd.profiler_util.EventList.table``: ``max_name_column_width`` ...
        profiler_kwargs: handed on to ``torch.profiler.profile``: ``activities``, ``schedule``, ``profile_memory`` ...
            Without a schedule, three training batches after the first two are recorded.

    Raises :class:`UnknownTableOption` for a key of ``table_kwargs`` that the table does not take, or that has its own argument.
    """

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        group_by_input_shapes: bool = False,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        table_kwargs: dict[str, Any] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        refuse_unknown(type(self).__name__, profiler_kwargs, torch.profiler.profile, also=arguments_of(PyTorchProfiler))
        super().__init__(dirpath, filename)
        self.group_by_input_shapes = group_by_input_shapes
        self.export_to_chrome = export_to_chrome
        self.row_limit = row_limit
        self.sort_by_key = sort_by_key
        self.table_kwargs = dict(table_kwargs or {})
        _check_table(self.table_kwargs)
        self.profiler_kwargs = profiler_kwargs
        self.profiler: TorchProfile | None = None
        self._marks: list[tuple[str, record_function]] = []
        self._report = ""
        self._described = ""

    def start(self, action_name: str) -> None:
        if self.profiler is None:
            self.profiler = self._make()
            self.profiler.start()
        mark = record_function(action_name)
        mark.__enter__()
        self._marks.append((action_name, mark))

    def stop(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action was never started."""
        at = next((at for at in reversed(range(len(self._marks))) if self._marks[at][0] == action_name), None)
        if at is None:
            raise InvalidOption("action_name", action_name, "an action that is running: it was never started")
        self._marks.pop(at)[1].__exit__(None, None, None)
        if action_name == STEP and self.profiler is not None:
            self.profiler.step()

    def summary(self) -> str:
        self._finish()
        return self._report or self._described

    def describe(self) -> None:
        super().describe()
        self._described = self._report  # stays to be read after the verb, until the next one records

    def teardown(self, stage: str | None) -> None:
        self._finish()
        self._report = ""

    def _make(self) -> TorchProfile:
        self._described = ""

        options: dict[str, Any] = {"record_shapes": self.group_by_input_shapes, **self.profiler_kwargs}
        if "schedule" not in options and self._stage in (None, "fit"):
            options["schedule"] = torch.profiler.schedule(wait=1, warmup=1, active=3, repeat=1)
        options.setdefault("on_trace_ready", self._read)
        return torch.profiler.profile(**options)

    def _read(self, profiler: TorchProfile) -> None:
        """A recording is complete: keep its table, write its trace."""
        averages = profiler.key_averages(group_by_input_shape=self.group_by_input_shapes)
        key = self.sort_by_key or _longest(averages)
        self._report = "Profiler report\n" + averages.table(sort_by=key, row_limit=self.row_limit, **self.table_kwargs)
        if self.export_to_chrome and (self.dirpath or self._log_dir):
            path = self._path(".pt.trace.json")
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))

    def _finish(self) -> None:
        while self._marks:
            self._marks.pop()[1].__exit__(None, None, None)
        if self.profiler is not None:
            profiler, self.profiler = self.profiler, None
            profiler.stop()


def _check_table(options: dict[str, Any]) -> None:
    from torch.autograd.profiler_util import EventList

    known = inspect.signature(EventList.table).parameters.keys() - {"self", "row_limit", "sort_by"}
    for key in options:
        if key not in known:
            raise UnknownTableOption(
                f"table_kwargs holds {key!r}, which is none of its keys: {', '.join(sorted(known))}."
                f"{did_you_mean(key, known)} For row_limit and sort_by there are the arguments row_limit and sort_by_key."
            )


def _longest(averages: Any) -> str:
    used = any(getattr(event, "device_time_total", 0) for event in averages)
    return "device_time_total" if used else "cpu_time_total"
