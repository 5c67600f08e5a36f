"""PyTorch's profiler in a run: what it records and when, what its traces hold, and that watching changes nothing."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerAction
from torch.utils.data import DataLoader

from leyden.errors import InvalidOption, PossibleUserWarning, UnknownName, Unsupported
from leyden.profilers import PyTorchProfiler
from leyden.profilers.pytorch import RegisterRecordFunction
from leyden.testing import BoringModel, ManualOptimBoringModel

TRAIN, VALIDATE = "[Strategy]SingleDeviceStrategy.training_step", "[Strategy]SingleDeviceStrategy.validation_step"

quiet = partial(kit.trainer, max_epochs=1, num_sanity_val_steps=1)


def events_of(trace: Path) -> list[str]:
    return [event["name"] for event in json.loads(trace.read_text())["traceEvents"] if "name" in event]


def traces(folder: Path) -> list[str]:
    """The names of the traces in ``folder``, in the order in which they were written, but for when that was."""
    paths = sorted(folder.glob("*.pt.trace.json"), key=lambda path: path.name.split(".")[-4])
    return [path.name.rsplit(".", 4)[0] for path in paths]


@pytest.mark.parametrize("batches", [1, 3, 5])
@pytest.mark.parametrize("module", [BoringModel, ManualOptimBoringModel])
def test_without_a_schedule_everything_is_recorded(module: Any, batches: int, tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path, "profile", schedule=None)
    quiet(profiler=profiler, limit_train_batches=batches, limit_val_batches=batches, num_sanity_val_steps=0).fit(module())
    assert profiler.function_events is not None
    names = [event.name for event in profiler.function_events]
    for action in (TRAIN, VALIDATE, "[Strategy]SingleDeviceStrategy.backward"):
        assert names.count(f"[pl][profile]{action}") == batches
    assert "FIT Profiler Report" in (tmp_path / "fit-profile.txt").read_text()
    assert traces(tmp_path) == ["fit-profile"]


def test_a_fit_of_fast_dev_run_is_what_was_recorded(tmp_path: Path) -> None:
    """The test that follows it is a promise of 2020, and no verb that anybody asked to profile."""
    profiler = PyTorchProfiler(tmp_path, schedule=None)
    quiet(profiler=profiler, fast_dev_run=2).fit(BoringModel())
    assert [event.name for event in profiler.function_events or []].count(f"[pl][profile]{TRAIN}") == 2


def test_a_handler_that_fails_ends_the_fit_and_nothing_else(tmp_path: Path) -> None:
    def fail(_: Any) -> None:
        raise kit.Crash

    with pytest.raises(kit.Crash):
        quiet(profiler=PyTorchProfiler(on_trace_ready=fail), limit_train_batches=9, limit_val_batches=0).fit(BoringModel())
    quiet(profiler=PyTorchProfiler(tmp_path), limit_train_batches=9, limit_val_batches=0).fit(BoringModel())
    assert traces(tmp_path) == [f"fit-{TRAIN}"]


def test_by_default_three_steps_of_each_kind_are_recorded(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path)
    options = {"limit_train_batches": 9, "limit_val_batches": 7, "max_epochs": 2, "val_check_interval": 3}
    quiet(profiler=profiler, **options).fit(BoringModel())
    assert traces(tmp_path) == [f"fit-{TRAIN}", f"fit-{VALIDATE}"]
    for path, action in ((next(tmp_path.glob("*training*")), TRAIN), (next(tmp_path.glob("*validation*")), VALIDATE)):
        assert events_of(path).count(f"[pl][profile]{action}") == 3
        assert json.loads(path.read_text())["Framework"] == "pytorch-lightning"  # for TensorBoard's view of [pl] names
    report = profiler.summary()
    assert (report.count(f"Profile stats for: {TRAIN}"), report.count(f"Profile stats for: {VALIDATE}")) == (1, 1)


def test_steps_in_a_trace_have_the_numbers_of_their_batches(tmp_path: Path) -> None:
    schedule = torch.profiler.schedule(wait=2, warmup=1, active=2, repeat=2)
    quiet(profiler=PyTorchProfiler(tmp_path, schedule=schedule), limit_train_batches=12, limit_val_batches=0).fit(BoringModel())
    recorded = [
        [name for name in events_of(path) if name.startswith("ProfilerStep#")] for path in sorted(tmp_path.glob("*.json"))
    ]
    numbers = [sorted({name.removeprefix("ProfilerStep#") for name in names}) for names in recorded]
    assert numbers == [["3", "4"], ["8", "9"]]


def test_a_schedule_may_begin_at_once(tmp_path: Path) -> None:
    def schedule(step: int) -> ProfilerAction:
        return (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE, ProfilerAction.NONE)[min(step, 2)]

    profiler = PyTorchProfiler(tmp_path, schedule=schedule)
    quiet(profiler=profiler, limit_train_batches=4, limit_val_batches=2).fit(BoringModel())
    (trace,) = tmp_path.glob("*training_step*")
    assert events_of(trace).count(f"[pl][profile]{TRAIN}") == 2
    assert f"[pl][profile]{VALIDATE}" not in events_of(trace)


def test_fewer_steps_than_the_schedule_needs_are_all_recorded(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path)
    trainer = quiet(profiler=profiler, limit_train_batches=2, limit_val_batches=0, limit_test_batches=4)
    trainer.fit(BoringModel())
    assert profiler.summary().count(TRAIN) >= 1
    assert [event.name for event in profiler.function_events or []].count(f"[pl][profile]{TRAIN}") == 2
    trainer.test()
    (trace,) = tmp_path.glob("test-*")
    assert events_of(trace).count("[pl][profile][Strategy]SingleDeviceStrategy.test_step") == 4


@pytest.mark.parametrize(("verb", "word"), [("validate", "validation"), ("test", "test"), ("predict", "predict")])
def test_the_schedule_counts_steps_of_other_verbs_too(verb: str, word: str, tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path)
    limits = {f"limit_{'val' if verb == 'validate' else verb}_batches": 9}
    getattr(quiet(profiler=profiler, **limits), verb)(BoringModel())
    (trace,) = tmp_path.glob(f"{verb}-*.json")
    assert events_of(trace).count(f"[pl][profile][Strategy]SingleDeviceStrategy.{word}_step") == 3


def test_a_schedule_that_never_began_is_told_of(tmp_path: Path) -> None:
    for schedule in (torch.profiler.schedule(wait=50, warmup=1, active=1), torch.profiler.schedule(wait=1, warmup=9, active=1)):
        trainer = quiet(profiler=PyTorchProfiler(tmp_path, schedule=schedule), limit_train_batches=3, limit_val_batches=0)
        with pytest.warns(PossibleUserWarning, match=r"PyTorchProfiler recorded nothing.*schedule=None"):
            trainer.fit(BoringModel())
        assert list(tmp_path.iterdir()) == []


def test_on_trace_ready_is_the_user_s(tmp_path: Path) -> None:
    ready: list[Any] = []
    profiler = PyTorchProfiler(tmp_path, on_trace_ready=ready.append, export_to_flame_graph=True)
    quiet(profiler=profiler, limit_train_batches=6, limit_val_batches=0).fit(BoringModel())
    assert len(ready) == 1
    assert list(tmp_path.iterdir()) == []
    assert TRAIN in profiler.summary()


def test_stacks_for_a_flame_graph(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path, export_to_chrome=False, export_to_flame_graph=True, metric="self_cpu_time_total")
    quiet(profiler=profiler, limit_train_batches=6, limit_val_batches=0).fit(BoringModel())
    assert [path.name for path in tmp_path.iterdir()] == [f"fit-{TRAIN}.stack"]


def test_a_trace_names_the_modules(tmp_path: Path) -> None:
    for record, expected in ((True, 3), (False, 0)):
        profiler = PyTorchProfiler(tmp_path, record_module_names=record)
        quiet(profiler=profiler, limit_train_batches=6, limit_val_batches=0).fit(BoringModel())
        names = [event.name for event in profiler.function_events or []]
        assert names.count("[pl][module]torch.nn.modules.linear.Linear: layer") == expected


def test_module_names_without_a_trainer() -> None:
    class Failing(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            raise ZeroDivisionError

    module = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU()), Failing())
    profiler = PyTorchProfiler(export_to_chrome=False)
    with profiler.profile("a"), RegisterRecordFunction(module), pytest.raises(ZeroDivisionError):
        module(torch.ones(1, 2))
    profiler.describe()
    names = [event.name for event in profiler.function_events or []]
    assert names.count("[pl][profile]a") == names.count("[pl][module]torch.nn.modules.container.Sequential: 1") == 1
    assert names.count("[pl][module]torch.nn.modules.activation.ReLU: 1.0") == 1
    before = len(names)
    with torch.profiler.profile() as silent:
        module[0](torch.ones(1, 2))
    assert not any(event.name.startswith("[pl]") for event in silent.events())
    assert before


class Encoder(kit.Tiny):
    """A module whose layers evaluate by kernels of their own, unless somebody hooks onto them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.seen: list[Tensor] = []

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen.append(self.encoder(batch).clone())


def test_a_module_that_is_watched_computes_as_before() -> None:
    data = torch.randn(6, 3, 8, generator=torch.Generator().manual_seed(0))
    seen = []
    for profiler in (None, PyTorchProfiler(export_to_chrome=False)):
        module = Encoder()
        kit.trainer(profiler=profiler).validate(module, DataLoader(data), verbose=False)
        seen.append(torch.cat(module.seen))
    assert torch.equal(*seen)


@pytest.mark.parametrize("key", sorted(PyTorchProfiler.AVAILABLE_SORT_KEYS))
def test_every_column_sorts(key: str) -> None:
    profiler = PyTorchProfiler(sort_by_key=key, row_limit=2)
    with profiler.profile("a"):
        torch.ones(2) + 1
    assert "[pl][profile]a" in profiler.summary() or "aten" in profiler.summary()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sort_by_key": "cpu_tme"}, r"sort_by_key='cpu_tme'.*Did you mean 'cpu_time'\?"),
        ({"schedule": 3}, "schedule=3 .*torch.profiler.schedule"),
        ({"schedule": lambda step: step}, "for step 0 it gave 0"),
        ({"row_limit": -2}, "row_limit=-2 .*-1 for all"),
        ({"row_limit": "20"}, "row_limit='20'"),
    ],
)
def test_mistaken_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        PyTorchProfiler(**options)


def test_mistaken_names() -> None:
    with pytest.raises(UnknownName, match=r"PyTorchProfiler got an unknown argument 'record_shape'.*'record_shapes'"):
        PyTorchProfiler(record_shape=True)


def test_arguments_by_position(tmp_path: Path) -> None:
    profiler = PyTorchProfiler(tmp_path, "name", True, False, False, 5, "count", False, {"max_name_column_width": 30})
    assert (profiler.dirpath, profiler.filename, profiler.group_by_input_shapes) == (tmp_path, "name", True)
    assert (profiler.export_to_chrome, profiler.row_limit, profiler.sort_by_key) == (False, 5, "count")
    assert (profiler.record_module_names, profiler.table_kwargs) == (False, {"max_name_column_width": 30})


def test_marks_for_nvidia_s_tools_need_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match=r"emit_nvtx=True.*needs a CUDA device"):
        PyTorchProfiler(emit_nvtx=True)


def test_marks_for_nvidia_s_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    def noted(name: str, **_: Any) -> Any:
        entered.append(name)
        return nullcontext()

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "is_available", lambda: True)
        profiler = PyTorchProfiler(emit_nvtx=True)
    monkeypatch.setattr(torch.cuda.profiler, "profile", partial(noted, "cudaProfilerStart"))
    monkeypatch.setattr(torch.autograd.profiler, "emit_nvtx", partial(noted, "emit_nvtx"))
    quiet(profiler=profiler, limit_train_batches=2, limit_val_batches=0).fit(BoringModel())
    assert entered == ["cudaProfilerStart", "emit_nvtx"]
    assert profiler.summary() == ""
