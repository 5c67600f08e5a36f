"""Which operators the time went to, on CPU and GPU, by PyTorch's own profiler."""

import inspect
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
import torch.profiler
from torch import nn
from torch.autograd.profiler_util import EventList
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerAction, record_function
from torch.profiler import profile as TorchProfile

from leyden.checked import check_bool
from leyden.errors import (
    InvalidOption,
    InvalidType,
    LeydenWarning,
    PossibleUserWarning,
    UnknownName,
    Unsupported,
    did_you_mean,
    warn_user,
)
from leyden.not_offered import answers
from leyden.profilers.base import Profiler
from leyden.profilers.older import takes_output_filename
from leyden.spelling import arguments_of, exact_arguments, refuse_unknown

Schedule = Callable[[int], ProfilerAction]
BATCH = "run_training_batch"
STEPS = ("training_step", "validation_step", "test_step", "predict_step")
__getattr__ = answers(__name__, "leyden.profilers")
LEAST = 5
"""Steps that the default schedule needs: one that it passes over, one to warm up, three that it records."""


class UnknownTableOption(UnknownName, KeyError):
    """``table_kwargs`` holds a key that is no option of the table, or one that has an argument of its own."""


class RegisterRecordFunction:
    """Within it, a trace names the submodule of ``model`` whose forward runs: ``[pl][module]torch.nn...Linear: encoder.0``."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._labels: dict[nn.Module, str] = {}
        self._running: list[tuple[nn.Module, record_function]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            if name:
                self._labels[module] = f"[pl][module]{type(module).__module__}.{type(module).__name__}: {name}"
        # hooks of all modules, and none of these: with hooks of its own a transformer's layer evaluates by other kernels
        self._handles = [register_module_forward_pre_hook(self._begin), register_module_forward_hook(self._end, always_call=True)]

    def _begin(self, module: nn.Module, _: Any) -> None:
        label = None if torch.compiler.is_compiling() else self._labels.get(module)
        if label is not None:
            mark = record_function(label)
            mark.__enter__()
            self._running.append((module, mark))

    def _end(self, module: nn.Module, *_: Any) -> None:
        if self._running and self._running[-1][0] is module:
            self._running.pop()[1].__exit__(None, None, None)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._running = [], []


class Steps:
    """A schedule, asked for each kind of step by a count of its own: a recording begins and ends with steps of one kind.

    While one kind warms up or is recorded, steps of the others are not counted.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.counts: dict[str, int] = {}
        self.owner: str | None = None
        self.action = ProfilerAction.NONE

    def __call__(self, _: int) -> ProfilerAction:
        return self.action

    def concerns(self, kind: str) -> bool:
        return self.owner in (None, kind)

    def choose(self, kind: str) -> bool:
        """What is to be done in the next step of ``kind``: whether that is something else than is done now."""
        before, self.action = self.action, self.schedule(self.counts.get(kind, 0))
        self.owner = None if self.action is ProfilerAction.NONE else kind
        return self.action is not before

    def count(self, kind: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1


@exact_arguments
@takes_output_filename
class PyTorchProfiler(Profiler):
    """Runs ``torch.profiler.profile`` over a verb, with each action marked in the trace as ``[pl][profile]{action}``.

    Args:
        group_by_input_shapes: count an operator once for each shape of its inputs.
        emit_nvtx: mark actions, operators and modules for NVIDIA's tools instead, and record nothing here. Run
            ``nsys profile --capture-range=cudaProfilerApi python train.py``. Needs a CUDA device.
        export_to_chrome: write each recording to ``{stage}-{filename}-{step}.{ns}.pt.trace.json`` (where there is a folder for
            it), which TensorBoard's profiler plugin, ``chrome://tracing`` and ui.perfetto.dev read.
        row_limit: lines of the report; -1 for all.
        sort_by_key: the column by which operators are sorted; the total time of the device by default.
        record_module_names: mark the forward of each submodule, as :class:`RegisterRecordFunction` does.
        table_kwargs: for the report's table, ``torch.autograd.profiler_util.EventList.table``: ``max_name_column_width`` ...
        profiler_kwargs: handed on to ``torch.profiler.profile``: ``activities``, ``schedule``, ``on_trace_ready``,
            ``profile_memory`` ... And ``export_to_flame_graph=True``, which writes the stacks too, by ``metric``
            (``"self_cpu_time_total"``).

    The schedule counts training batches; of the other verbs, and of validation inside a fit, their steps, each kind by itself.
    Without one, three steps after the first two are recorded, of each kind once (all, where an epoch has fewer than five);
    ``schedule=None`` records everything, and so does a profiler that is used without a trainer. Everything is a lot of memory.

    Attributes:
        profiler: PyTorch's, while it runs.
        function_events: what the newest recording holds; ``None`` before.

    Raises :class:`UnknownTableOption` for a key of ``table_kwargs`` that the table does not take, or that has its own argument;
    :class:`InvalidOption` for a ``sort_by_key`` that is no column, and a ``schedule`` that is none.
    """

    STEP_FUNCTIONS: ClassVar[set[str]] = set(STEPS)
    AVAILABLE_SORT_KEYS: ClassVar[set[str]] = {
        *("count", "cpu_time", "cpu_time_total", "cpu_memory_usage", "self_cpu_memory_usage", "self_cpu_time_total"),
        *("cuda_time", "cuda_time_total", "cuda_memory_usage", "self_cuda_memory_usage", "self_cuda_time_total"),
        *("device_time", "device_time_total", "device_memory_usage", "self_device_memory_usage", "self_device_time_total"),
    }

    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        group_by_input_shapes: bool = False,
        emit_nvtx: bool = False,
        export_to_chrome: bool = True,
        row_limit: int = 20,
        sort_by_key: str | None = None,
        record_module_names: bool = True,
        table_kwargs: dict[str, Any] | None = None,
        **profiler_kwargs: Any,
    ) -> None:
        of_ours = [*arguments_of(PyTorchProfiler), "export_to_flame_graph", "metric"]
        refuse_unknown(type(self).__name__, profiler_kwargs, torch.profiler.profile, also=of_ours)
        super().__init__(dirpath, filename)
        self.group_by_input_shapes = group_by_input_shapes
        self.emit_nvtx = emit_nvtx
        self.export_to_chrome = export_to_chrome
        self.row_limit = row_limit
        self.sort_by_key = sort_by_key
        self.record_module_names = record_module_names
        if table_kwargs is not None and not isinstance(table_kwargs, Mapping):
            raise InvalidType("table_kwargs", table_kwargs, "a dict of keywords for the report's table, or None")
        self.table_kwargs = dict(table_kwargs or {})
        self.profiler_kwargs = profiler_kwargs
        self.leyden_shapes = group_by_input_shapes or profiler_kwargs.get("record_shapes", False)
        _check_table(self.table_kwargs)
        if sort_by_key is not None and not isinstance(sort_by_key, str):
            raise InvalidType("sort_by_key", sort_by_key, "the name of a column, or None")
        if sort_by_key is not None and sort_by_key not in self.AVAILABLE_SORT_KEYS:
            expected = f"one of {', '.join(sorted(self.AVAILABLE_SORT_KEYS))}"
            raise InvalidOption("sort_by_key", sort_by_key, expected, did_you_mean(sort_by_key, self.AVAILABLE_SORT_KEYS).strip())
        _check_schedule(profiler_kwargs.get("schedule"))
        if type(row_limit) is not int or row_limit < -1:
            raise InvalidOption("row_limit", row_limit, "a number of lines, or -1 for all")
        if check_bool("emit_nvtx", emit_nvtx) and not torch.cuda.is_available():
            raise Unsupported("PyTorchProfiler(emit_nvtx=True) marks a trace of NVIDIA's tools: it needs a CUDA device.")
        self.profiler: TorchProfile | None = None
        self.function_events: EventList | None = None
        self.leyden_module: Any = None
        self.leyden_steps: Steps | None = None
        self.leyden_kind: str | None = None  # of the step that runs
        self.leyden_labels: dict[str, str] = {}  # of each kind, the name of the step's action
        self.leyden_recorded: str | None = None  # the kind that the schedule was last asked for
        self.leyden_trained = False
        self.leyden_marks: list[tuple[str, record_function]] = []
        self.leyden_held = ExitStack()  # what names the modules, and what marks for NVIDIA's tools
        self.leyden_reports: dict[str, str] = {}
        self.leyden_described = ""
        self.leyden_is_on = False

    def leyden_attend(self, module: Any) -> None:
        self.leyden_module = module

    def start(self, action_name: str) -> None:
        kind = self.leyden_kind_of(action_name)
        if not self.leyden_is_on and (kind is not None or not self.leyden_has_schedule):
            self.leyden_begin(kind)
        if kind is not None and self.leyden_kind is None:
            self.leyden_kind = kind
            self.leyden_trained = self.leyden_trained or kind in (BATCH, "training_step")
            if self.leyden_counts(kind) and self.leyden_steps is not None and self.leyden_steps.choose(kind):
                self.leyden_go_to(kind)
        mark = record_function(f"[pl][profile]{action_name}")
        mark.__enter__()
        self.leyden_marks.append((action_name, mark))

    def stop(self, action_name: str) -> None:
        """Raises :class:`InvalidOption` when the action was never started."""
        at = next((at for at in reversed(range(len(self.leyden_marks))) if self.leyden_marks[at][0] == action_name), None)
        if at is None:
            raise InvalidOption("action_name", action_name, "an action that is running: it was never started")
        self.leyden_marks.pop(at)[1].__exit__(None, None, None)
        if self.leyden_kind is not None and _step_of(action_name):
            self.leyden_labels[self.leyden_kind] = action_name
        if self.leyden_kind is None or self.leyden_kind_of(action_name) != self.leyden_kind:
            return
        kind, self.leyden_kind = self.leyden_kind, None
        if self.leyden_counts(kind):
            if self.leyden_steps is None:
                self.leyden_recorded = kind
                return
            self.leyden_steps.count(kind)
            self.leyden_steps.choose(kind)
            self.leyden_go_to(kind)

    def leyden_go_to(self, kind: str) -> None:
        """The next step of ``kind`` begins, in the way that the schedule has chosen."""
        assert self.leyden_steps is not None
        assert self.profiler is not None
        self.leyden_recorded = kind
        self.profiler.step_num = self.leyden_steps.counts.get(kind, 0) - 1  # the number of a step in the trace is its own
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(Warning: )?Profiler clears events")  # of each recording is kept what is told
            self.profiler.step()
        if self.leyden_steps.action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE):
            self.leyden_sign()

    def leyden_sign(self) -> None:
        assert self.profiler is not None
        self.profiler.add_metadata("Framework", "pytorch-lightning")  # by which TensorBoard's plugin knows what [pl] means

    @staticmethod
    def leyden_kind_of(action_name: str) -> str | None:
        return BATCH if action_name == BATCH else _step_of(action_name)

    def leyden_counts(self, kind: str) -> bool:
        """Whether the schedule counts steps of ``kind`` now: those of the sanity check it leaves out."""
        if self.profiler is None or (self._stage == "fit" and not self.leyden_trained):
            return False
        return self.leyden_steps is None or self.leyden_steps.concerns(kind)

    @property
    def leyden_has_schedule(self) -> bool:
        if "schedule" in self.profiler_kwargs:
            return self.profiler_kwargs["schedule"] is not None
        return self._stage is not None and not self.emit_nvtx

    def leyden_begin(self, kind: str | None) -> None:
        self.leyden_is_on, self.leyden_described = True, ""
        if self.record_module_names and self.leyden_module is not None:
            self.leyden_held.enter_context(RegisterRecordFunction(self.leyden_module))
        if self.emit_nvtx:
            self.leyden_held.enter_context(torch.cuda.profiler.profile())
            self.leyden_held.enter_context(torch.autograd.profiler.emit_nvtx(record_shapes=self.group_by_input_shapes))
            return
        options: dict[str, Any] = {**self.profiler_kwargs, "record_shapes": self.leyden_shapes}
        schedule = options.pop("schedule", None)
        if options.pop("export_to_flame_graph", False):
            options["with_stack"] = True
        options.pop("metric", None)
        if "schedule" not in self.profiler_kwargs and self.leyden_has_schedule and self.leyden_planned(kind) >= LEAST:
            schedule = torch.profiler.schedule(wait=1, warmup=1, active=LEAST - 2, repeat=1)
        self.leyden_steps = None if schedule is None else Steps(schedule)
        own = options.pop("on_trace_ready", None)

        def on_trace_ready(profiler: TorchProfile) -> None:
            self.leyden_read(profiler, export=own is None)
            if own is not None:
                own(profiler)

        self.profiler = torch.profiler.profile(**options, schedule=self.leyden_steps, on_trace_ready=on_trace_ready)
        self.profiler.start()
        if self.leyden_steps is None:
            self.leyden_sign()

    def leyden_planned(self, kind: str | None) -> float:
        """Steps of ``kind`` in this verb, as far as the module's trainer knows; 0 without one."""
        if self.leyden_module is None:
            return 0
        trainer = self.leyden_module.trainer
        if self._stage == "fit":
            epochs, steps = getattr(trainer, "max_epochs", None), getattr(trainer, "max_steps", -1)
            planned = getattr(trainer, "num_training_batches", float("inf"))
            planned *= float("inf") if epochs is None or epochs < 0 else epochs
            return planned if steps is None or steps < 0 else min(planned, steps)
        name = {"validation_step": "val", "test_step": "test", "predict_step": "predict"}.get(kind or "", "")
        planned = getattr(trainer, f"num_{name}_batches", float("inf"))
        return sum(planned) if isinstance(planned, list) else planned

    def leyden_read(self, profiler: TorchProfile, export: bool) -> None:
        """A recording is complete: keep its table, write its trace."""
        self.function_events = profiler.events()
        averages = profiler.key_averages(group_by_input_shape=self.group_by_input_shapes)
        key = self.sort_by_key or _longest(averages)
        table = averages.table(sort_by=key, row_limit=self.row_limit, **self.table_kwargs)
        kind = self.leyden_recorded or ""
        is_whole = self.leyden_steps is None and len(self.leyden_labels) > 1  # a recording of all, of several kinds of steps
        label = "" if is_whole else self.leyden_labels.get(kind, kind)
        self.leyden_reports[label or "records"] = table
        if not export or (self.dirpath or self.leyden_log_dir) is None:
            return
        name = self._prepare_filename(label, "")
        if self.export_to_chrome:
            self.leyden_keep(f"{name}.{time.time_ns()}.pt.trace.json", profiler.export_chrome_trace)
        if self.profiler_kwargs.get("export_to_flame_graph"):
            metric = self.profiler_kwargs.get("metric", "self_cpu_time_total")
            self.leyden_keep(f"{name}.stack", lambda path: profiler.export_stacks(path, metric=metric))

    def leyden_keep(self, name: str, write: Callable[[str], Any]) -> None:
        """What PyTorch writes into a local file only goes into the profiler's folder, wherever that is."""
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "written.json")
                write(path)  # which leaves no file where the disk is full
                with open(path, "rb") as source, self.leyden_open(name, "wb") as target:
                    shutil.copyfileobj(source, target)
        except OSError as error:
            warn_user(f"The trace {name} could not be written ({error}).", LeydenWarning)

    def summary(self) -> str:
        """The table of the newest recording of each kind of step; that of the verb before, until the next one records."""
        self.leyden_finish()
        if self.leyden_reports:
            return self._stats_to_str(self.leyden_reports)
        return self.leyden_described

    def describe(self) -> None:
        was_on = self.leyden_is_on
        super().describe()
        if was_on and not self.leyden_reports and self.leyden_steps is not None and self.leyden_steps.counts:
            warn_user(
                "PyTorchProfiler recorded nothing: the verb ended before its schedule began to record. Run more steps, give a "
                "schedule that begins earlier, or schedule=None, which records everything.",
                PossibleUserWarning,
            )
        if self.leyden_reports:
            self.leyden_described = self.summary()

    def teardown(self, stage: str | None) -> None:
        self.leyden_finish()
        self.leyden_reports, self.leyden_labels = {}, {}
        self.leyden_recorded, self.leyden_trained, self.leyden_module = None, False, None

    def leyden_finish(self) -> None:
        while self.leyden_marks:
            self.leyden_marks.pop()[1].__exit__(None, None, None)
        self.leyden_is_on, self.leyden_kind = False, None
        self.leyden_held.close()
        if self.profiler is not None:
            profiler, self.profiler = self.profiler, None
            profiler.stop()


def _step_of(action_name: str) -> str | None:
    return next((step for step in STEPS if action_name.endswith(step)), None)


def _check_table(options: dict[str, Any]) -> None:
    known = inspect.signature(EventList.table).parameters.keys() - {"self", "row_limit", "sort_by"}
    for key in options:
        if key not in known:
            raise UnknownTableOption(
                f"table_kwargs holds {key!r}, which is none of its keys: {', '.join(sorted(known))}."
                f"{did_you_mean(key, known)} For row_limit and sort_by there are the arguments row_limit and sort_by_key."
            )


def _check_schedule(schedule: Any) -> None:
    if schedule is None:
        return
    expected = "a function from a step's number to a torch.profiler.ProfilerAction, such as torch.profiler.schedule(...) makes"
    if not callable(schedule):
        raise InvalidOption("schedule", schedule, expected)
    answer = schedule(0)
    if not isinstance(answer, ProfilerAction):
        raise InvalidOption("schedule", schedule, f"{expected}; for step 0 it gave {answer!r}")


def _longest(averages: Any) -> str:
    used = any(getattr(event, "device_time_total", 0) for event in averages)
    return "device_time_total" if used else "cpu_time_total"
