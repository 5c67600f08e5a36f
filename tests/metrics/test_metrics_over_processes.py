"""Epoch values of several processes: those that one process would have had of everything, by a fixed number of exchanges."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from hypothesis import given, settings
from hypothesis import strategies as st
from processes_of_threads import ProcessesOfThreads, outcomes_together, run_together
from torch import Tensor

from leyden.distributed.processes import Alone, Processes
from leyden.errors import MetricsDiffer
from leyden.metrics.metrics import AskedLog, Metrics

Logged = tuple[str, Any, int, Any]
"""Name, value, number of samples, reduction."""


def asked(reduce: Any = "mean", *, step: bool = False, sync: bool | None = False) -> AskedLog:
    return (True, None, step, True, reduce, True, False, sync)


def begun(processes: Processes, stage: str = "val", module: torch.nn.Module | None = None) -> Metrics:
    metrics = Metrics()
    where = {"val": "validation_step", "train": "training_step"}[stage]
    metrics.begin(SimpleNamespace(where=where), module, processes)
    metrics.start_epoch(stage)
    return metrics


def log(metrics: Metrics, values: Sequence[Logged], loader: int | None = None) -> None:
    for name, value, size, reduce in values:
        metrics.at(torch.zeros(1), loader, lambda: None)
        metrics.log(name, value, asked(reduce), size)


def alone(values: Sequence[Logged]) -> dict[str, Any]:
    metrics = begun(Alone())
    log(metrics, values)
    metrics.end_batches()
    return metrics.epoch_results(None)


def shared(parts: Sequence[Sequence[Logged]]) -> list[dict[str, Any]]:
    """The epoch's values on each rank, where each logs its part."""

    def body(processes: ProcessesOfThreads) -> dict[str, Any]:
        metrics = begun(processes)
        log(metrics, parts[processes.rank])
        metrics.end_batches()
        return metrics.epoch_results(None)

    return run_together(len(parts), body)


def bits(value: Any) -> Any:
    """Everything about a value that could differ."""
    if isinstance(value, dict):
        return {name: bits(each) for name, each in value.items()}
    if isinstance(value, Tensor):
        return str(value.dtype), value.device.type, value.item() if not value.is_floating_point() else bits(value.item())
    return type(value), "nan" if value != value else struct.pack("d", value) if isinstance(value, float) else value


@st.composite
def splits(draw: Any, numbers: st.SearchStrategy[Any], reduces: Sequence[Any]) -> tuple[list[Logged], list[list[Logged]]]:
    """Values in one process, and the same dealt out to up to three, some of which may get none."""
    batches = draw(st.lists(st.tuples(numbers, st.integers(0, 1000), st.integers(0, 2)), min_size=1, max_size=20))
    reduce = draw(st.sampled_from(reduces))
    values = [("a", value, size, reduce) for value, size, _ in batches]
    return values, [[each for each, (_, _, to) in zip(values, batches, strict=True) if to == rank] for rank in range(3)]


def tensors(dtype: torch.dtype) -> st.SearchStrategy[Tensor]:
    if dtype is torch.bool:
        numbers: st.SearchStrategy[Any] = st.booleans()
    elif dtype.is_floating_point:
        numbers = st.floats(width={2: 16, 4: 32, 8: 64}[dtype.itemsize])  # type: ignore[arg-type]  # these three
    else:
        limits = torch.iinfo(dtype)
        numbers = st.integers(int(limits.min), int(limits.max))
    return numbers.map(lambda number: torch.tensor(number, dtype=dtype))


FLOATS = st.floats()
INTEGERS = st.integers(-(2**200), 2**200) | st.integers(-9, 9)
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
SUMS = ["mean", "sum"]


@pytest.mark.parametrize("numbers", [FLOATS, INTEGERS, FLOATS | INTEGERS], ids=["floats", "integers", "both"])
@given(data=st.data())
def test_sums_of_numbers(numbers: st.SearchStrategy[Any], data: st.DataObject) -> None:
    whole, parts = data.draw(splits(numbers, SUMS))
    try:
        expected = alone(whole)
    except OverflowError:  # a sum beyond all floats, which Python says of one process too
        return
    for found in shared(parts):
        assert bits(found) == bits(expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_sums_of_tensors(dtype: torch.dtype, data: st.DataObject) -> None:
    whole, parts = data.draw(splits(tensors(dtype), SUMS))
    expected = bits(alone(whole)["a"])
    assert [bits(found["a"]) for found in shared(parts)] == [expected] * 3


@given(
    splits(
        tensors(torch.float32) | tensors(torch.float64) | tensors(torch.int64) | st.floats(width=32) | st.integers(-9, 9), SUMS
    )
)
def test_sums_of_everything(case: tuple[list[Logged], list[list[Logged]]]) -> None:
    assert [bits(found) for found in shared(case[1])] == [bits(alone(case[0]))] * 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=20)
@given(data=st.data())
def test_extremes_of_tensors(dtype: torch.dtype, data: st.DataObject) -> None:
    whole, parts = data.draw(splits(tensors(dtype), ["min", "max"]))
    expected = alone(whole)["a"] + 0  # which of two zeros comes first is the only thing that is not the values'
    assert [bits(found["a"] + 0) for found in shared(parts)] == [bits(expected)] * 3


@given(splits(FLOATS | INTEGERS, ["min", "max"]))
def test_extremes_of_numbers(case: tuple[list[Logged], list[list[Logged]]]) -> None:
    expected = alone(case[0])["a"]
    for found in shared(case[1]):
        assert found["a"] == expected or (math.isnan(found["a"]) and math.isnan(expected))


@given(splits(tensors(torch.int64) | tensors(torch.float32) | st.integers(-9, 9), ["min", "max"]))
def test_extremes_of_several_types(case: tuple[list[Logged], list[list[Logged]]]) -> None:
    expected = float(alone(case[0])["a"])
    for found in shared(case[1]):
        assert float(found["a"]) == expected or (math.isnan(found["a"]) and math.isnan(expected))


@pytest.mark.parametrize("numbers", [FLOATS, INTEGERS, *map(tensors, DTYPES)], ids=["floats", "integers", *map(str, DTYPES)])
@settings(max_examples=10)
@given(data=st.data())
def test_the_last_is_the_highest_rank_s(numbers: st.SearchStrategy[Any], data: st.DataObject) -> None:
    _, parts = data.draw(splits(numbers, ["last"]))
    expected = next(part[-1][1] for part in reversed(parts) if part)
    assert [bits(found["a"]) for found in shared(parts)] == [bits(expected)] * 3


def weighted(values: Tensor) -> Tensor:
    return (values * torch.arange(1, len(values) + 1)).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.float64])
@settings(max_examples=20)
@given(data=st.data())
def test_a_function_gets_the_values_in_the_order_of_the_ranks(dtype: torch.dtype, data: st.DataObject) -> None:
    _, parts = data.draw(splits(st.integers(-9, 9).map(lambda number: torch.tensor(number, dtype=dtype)), [weighted]))
    expected = alone([each for part in parts for each in part])["a"]
    assert [bits(found["a"]) for found in shared(parts)] == [bits(expected)] * 3


def test_many_values_of_a_function_and_of_a_sum() -> None:
    parts = [[("f", float(i + 1000 * rank), 1, weighted) for i in range(300 + rank)] for rank in range(2)]
    for part in parts:
        part += [("m", float(i), 3, "mean") for i in range(500)]
    expected = alone([*parts[0], *parts[1]])
    assert shared(parts) == [expected] * 2


def test_an_empty_rank_keeps_the_names_for_the_epochs_to_come() -> None:
    def body(processes: ProcessesOfThreads) -> list[Any]:
        metrics = begun(processes, "train")
        found = []
        for epoch in range(3):
            metrics.start_epoch("train")
            if processes.rank == 0 or epoch == 2:
                metrics.start_batches(lambda: None)
                metrics.batch = torch.zeros(1)
                metrics.log("a", 2.0 + processes.rank + epoch, asked(), 1)
                metrics.log("b", 1, asked(weighted), 1)
            metrics.end_batches()
            metrics.close()
            found.append((metrics.epoch_row(), len(processes.words)))
            metrics.end_epoch()
            assert sorted(metrics.callback()) == ["a", "b"]
        return found

    found = run_together(2, body)
    assert found[0] == found[1]
    assert [row for row, _ in found[0]] == [{"a": 2.0, "b": 1}, {"a": 3.0, "b": 1}, {"a": 4.5, "b": 3}]


# -- names that differ


def names_on(*names: Sequence[str], loader: int | None = None, hook: str = "validation_step") -> Callable[..., Any]:
    def body(processes: ProcessesOfThreads) -> Any:
        metrics = begun(processes)
        metrics._place = SimpleNamespace(where=hook)
        metrics.at(torch.zeros(1), loader, lambda: None)
        for name in names[processes.rank]:
            metrics.log(name, 1.0, asked("max" if name == "c" and processes.rank else "mean"), 1)
        metrics.end_batches()

    return body


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (
            (["a"], ["b"]),
            "'a' (in validation_step) was logged by process 0, and not by 1; 'b' (in validation_step) was logged by ",
        ),
        ((["a"], []), "'a' (in validation_step) was logged by process 0, and not by 1."),
        ((["a", "b"], ["a"], ["a"]), "'b' (in validation_step) was logged by process 0, and not by 1, 2."),
        ((["c"], ["c"], ["c"]), "'c' (in validation_step) is of several kinds: max on 1, 2, mean on 0."),
    ],
)
def test_names_that_differ_are_an_error_on_every_process(names: Any, complaint: str) -> None:
    outcomes = outcomes_together(len(names), names_on(*names))
    assert [type(outcome) for outcome in outcomes] == [MetricsDiffer] * len(names)
    for outcome in outcomes:
        assert complaint in str(outcome)
        assert "The processes logged different metrics (after the batches of an epoch of val): " in str(outcome)


def test_the_order_in_which_names_are_logged_may_differ() -> None:
    run_together(2, names_on(["a", "b"], ["b", "a"]))


def test_a_name_of_an_epoch_hook_has_no_excuse() -> None:
    outcomes = outcomes_together(2, names_on(["a"], [], hook="on_validation_epoch_end"))
    assert [type(outcome) for outcome in outcomes] == [MetricsDiffer] * 2


def test_a_validation_after_training_s_batches_excuses_nobody() -> None:
    def body(processes: ProcessesOfThreads) -> None:
        metrics = begun(processes)
        metrics._place = SimpleNamespace(where="training_step")
        metrics.start_epoch("train")
        metrics.start_batches(lambda: None)
        metrics.batch = torch.zeros(1)
        if processes.rank:
            metrics.log("a", 1.0, asked("mean"), 1)
        metrics.start_epoch("val")
        metrics.end_batches()
        metrics.leave("train")
        metrics.end_batches()

    outcomes = outcomes_together(2, body)
    assert [type(outcome) for outcome in outcomes] == [MetricsDiffer] * 2


def test_different_places_are_named() -> None:
    def body(processes: ProcessesOfThreads) -> None:
        metrics = begun(processes)
        log(metrics, [("a", 1.0, 1, "mean")])
        metrics.end_batches()
        if processes.rank:
            metrics.close()
        else:
            metrics.start_epoch("train")
            metrics.end_batches()

    for outcome in outcomes_together(2, body):
        assert isinstance(outcome, MetricsDiffer)
        assert "process 0: after the batches of an epoch of train, process 1: after the hooks of an epoch of val" in str(outcome)


def test_a_name_of_one_process_alone_stays_out_of_it() -> None:
    def body(processes: ProcessesOfThreads) -> dict[str, Any]:
        metrics = begun(processes)
        log(metrics, [("a", processes.rank, 1, "sum")])
        if processes.is_first:
            metrics.log("mine", 7.0, asked(sync=None), 1)
        metrics.end_batches()
        return metrics.epoch_results(None)

    assert run_together(2, body) == [{"a": 1, "mine": 7.0}, {"a": 1}]


# -- how often


@pytest.mark.parametrize("reduces", [("mean", "sum"), ("min", "max"), ("last",), ("mean", "sum", "min", "max", "last")])
def test_the_number_of_exchanges_does_not_depend_on_the_number_of_names(reduces: Sequence[str]) -> None:
    def words(count: int, *more: Any) -> list[str]:
        def body(processes: ProcessesOfThreads) -> list[str]:
            metrics = begun(processes)
            log(metrics, [(f"{reduce}{i}", torch.tensor(1.5), 1, reduce) for i in range(count) for reduce in (*reduces, *more)])
            metrics.end_batches()
            return processes.words

        (first, second) = run_together(2, body)
        assert first == second
        return first

    assert words(1) == words(40)
    assert set(words(1)) == {"all_reduce"}
    assert len(words(1)) <= 3
    assert words(1, weighted) == words(40, weighted)
    assert words(1, weighted)[-1] == "all_gather"


class Counts(torchmetrics.MeanMetric):
    """Counts how often it computes."""

    computed = 0

    def compute(self) -> Any:
        self.computed += 1
        return super().compute()


def test_reading_never_exchanges_and_never_computes() -> None:
    def body(processes: ProcessesOfThreads) -> None:
        metric = Counts(sync_on_compute=False)
        metrics = begun(processes, "train", torch.nn.ModuleDict({"m": metric}))
        place: Any = metrics._place

        def read() -> dict[str, float]:
            before = len(processes.words), metric.computed
            (
                metrics.callback(),
                metrics.logged(),
                metrics.bar(),
                metrics.epoch_row(),
                metrics.epoch_results(None),
            )
            assert (len(processes.words), metric.computed) == before
            return {name: value.item() for name, value in metrics.callback().items()}

        place.where = "on_train_epoch_start"
        metrics.log("s", processes.rank, asked("sum"), None)
        assert read() == {"s": processes.rank}
        metrics.start_batches(lambda: None)
        place.where = "training_step"
        for i in range(3):
            metrics.batch = torch.zeros(1)
            metrics.log("a", torch.tensor(float(i + processes.rank)), asked(step=True), 1)
            metric.update(float(i))
            metrics.log("m", metric, asked(), None)
            metrics.step_row()
            assert read() == {"s": processes.rank, "a": i + processes.rank, "a_step": i + processes.rank}
        assert (len(processes.words), metric.computed) == (1, 0), "at the first row: whether all share the same names"
        metrics.end_batches()
        assert (len(processes.words), metric.computed) == (4, 1)
        expected = {"s": 1, "a": 1.5, "a_step": 2.0 + processes.rank, "a_epoch": 1.5, "m": 1.0}
        assert read() == expected
        place.where = "on_train_epoch_end"
        metrics.log("end", processes.rank, asked(), None)
        assert read() == {**expected, "end": processes.rank}
        metrics.close()
        assert (len(processes.words), metric.computed) == (7, 1)
        assert read() == {**expected, "end": 0.5}
        metrics.end_epoch()
        assert read() == {**expected, "end": 0.5}

    run_together(2, body)


def test_only_names_that_ask_for_it_are_exchanged_at_a_row() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        metrics = begun(processes, "train")
        metrics.start_batches(lambda: None)
        metrics.batch = torch.zeros(1)
        metrics.log("own", float(processes.rank), asked(step=True), 1)
        metrics.step_row()
        assert processes.words == ["all_reduce"], "at the first row: whether all share the same names"
        metrics.step_row()
        assert processes.words == ["all_reduce"]
        metrics.log("all", float(processes.rank), asked(step=True, sync=True), 1)
        metrics.log("most", torch.tensor(processes.rank), asked("max", step=True, sync=True), 1)
        assert metrics.callback()["all_step"] == processes.rank
        row = metrics.step_row()
        assert processes.words == ["all_reduce"] * 4
        assert metrics.step_row() == row
        assert metrics.callback()["all_step"] == 0.5
        metrics.log("all", 10.0, asked(step=True, sync=True), 1)
        assert metrics.callback()["all_step"] == 10.0
        metrics.end_batches()
        return row, metrics.epoch_row()

    for rank, (row, epoch) in enumerate(run_together(2, body)):
        assert row == {"own_step": rank, "all_step": 0.5, "most_step": 1}
        assert epoch == {"own_epoch": 0.5, "all_epoch": 5.25, "most_epoch": 1}


def test_a_step_s_mean_weighs_each_process_by_its_samples() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        metrics = begun(processes, "train")
        metrics.start_batches(lambda: None)
        metrics.batch = torch.zeros(1 + 2 * processes.rank)
        step = (True, None, True, False, "mean", True, False, True)
        metrics.log("by the batch", float(processes.rank), step, None)
        metrics.log("told", float(processes.rank), step, 3 - 2 * processes.rank)
        metrics.log("both", float(processes.rank), asked(step=True, sync=True), None)
        metrics.batch, metrics.size = object(), None
        metrics.log("unknown", float(processes.rank), step, None)
        return metrics.step_row()

    expected = {"by the batch": 0.75, "told": 0.25, "both_step": 0.75, "unknown": 0.5}
    assert run_together(2, body) == [expected, expected]


def test_one_process_packs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("leyden.metrics.collection.agree_on_names", refuse)
    monkeypatch.setattr("leyden.metrics.collection.values_of_all", refuse)
    monkeypatch.setattr(Alone, "all_reduce", refuse)
    metrics = begun(Alone())
    log(metrics, [("a", 1.0, 1, "mean"), ("b", 1.0, 1, "max")])
    metrics.log("c", 1.0, asked(step=True, sync=True), 1)
    metrics.step_row()
    metrics.end_batches()
    metrics.close()
    assert metrics.epoch_row() == {"a": 1.0, "b": 1.0, "c_epoch": 1.0}


# -- several loaders, and a resume


def test_each_loader_has_its_own_values_and_a_rank_may_lack_one() -> None:
    def body(processes: ProcessesOfThreads) -> list[dict[str, Any]]:
        metrics = begun(processes)
        log(metrics, [("a", 1.0 + processes.rank, 1, "mean")], 0)
        if processes.rank == 0:
            log(metrics, [("a", 5.0, 1, "mean")], 1)
        metrics.end_batches()
        return [metrics.epoch_results(loader) for loader in (0, 1)]

    assert run_together(2, body) == [[{"a/dataloader_idx_0": 1.5}, {"a/dataloader_idx_1": 5.0}]] * 2


@pytest.mark.parametrize("again", [True, False])
def test_a_resume_goes_on_from_each_process_s_own_state(again: bool) -> None:
    parts: Any = [[("a", float(i + rank), i + 1, reduce) for i in range(4)] for rank, reduce in ((0, "mean"), (3, "mean"))]
    states: dict[int, Any] = {}

    def first(processes: ProcessesOfThreads) -> None:
        metrics = begun(processes)
        log(metrics, parts[processes.rank][:2])
        states[processes.rank] = metrics.state_dict()

    def second(processes: ProcessesOfThreads) -> Any:
        metrics = begun(processes)
        metrics.load_state_dict(states[processes.rank])
        metrics.enter("val")
        if again:
            log(metrics, parts[processes.rank][2:])
        metrics.end_batches()
        return metrics.epoch_results(None)

    run_together(2, first)
    expected = alone([each for part in parts for each in (part if again else part[:2])])
    assert run_together(2, second) == [expected] * 2


def test_a_function_that_no_process_has_again_leaves_no_value_and_says_so() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        first = begun(processes)
        log(first, [("a", 1.0, 1, weighted)])
        metrics = begun(processes)
        metrics.load_state_dict(first.state_dict())
        metrics.enter("val")
        with pytest.warns(UserWarning, match="'a' has no value for the epoch in which the run went on: its reduce_fx is a func"):
            metrics.end_batches()
        return metrics.epoch_results(None)

    assert run_together(2, body) == [{}, {}]


def test_a_function_that_one_process_has_again_is_asked_there() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        first = begun(processes)
        log(first, [("a", 1.0 + processes.rank, 1, weighted)])
        metrics = begun(processes)
        metrics.load_state_dict(first.state_dict())
        metrics.enter("val")
        if processes.rank == 1:
            log(metrics, [("a", 3.0, 1, weighted)])
        metrics.end_batches()
        return metrics.epoch_results(None)

    assert run_together(2, body) == [{"a": 1.0 + 2 * 2.0 + 3 * 3.0}] * 2
