"""The rooms behind `self.log`: accumulators, batch sizes, metric objects that wait, and bulk reading."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from leyden.errors import IllegalLog
from leyden.metrics.accumulators import Extreme, Last, Stacked, Sum, as_tensor, rounded
from leyden.metrics.batch_size import given_size
from leyden.metrics.logged import WHERE_LEGAL, Entry, flattened, read_reduction, same_asked
from leyden.metrics.metric_objects import SetAside, used
from leyden.metrics.metrics import Metrics, read_numbers
from leyden.metrics.newest import stack_scalars

STEP: Any = (False, None, True, True, "mean", True, False, False)


def begun(where: str = "training_step", stage: str = "train", module: torch.nn.Module | None = None) -> Metrics:
    metrics = Metrics()
    metrics.begin(SimpleNamespace(where=where), module)
    metrics.start_epoch(stage)
    metrics.at(torch.zeros(2), None, lambda: None)
    return metrics


# -- rounding


@given(st.integers(-(2**80), 2**80), st.integers(1, 2**60))
def test_rounding_to_doubles_is_python_s(numerator: int, denominator: int) -> None:
    assert rounded(numerator, denominator, 53, -1074) == numerator / denominator


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_single_is_rounded_to_itself(value: float) -> None:
    exact = Fraction(value)
    assert rounded(exact.numerator, exact.denominator, 24, -149) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Fraction(1) + Fraction(1, 2**24), 1.0),  # a tie goes to the even neighbour
        (Fraction(1) + Fraction(3, 2**24), 1.0 + 2.0**-22),
        (Fraction(1) + Fraction(1, 2**24) + Fraction(1, 2**90), 1.0 + 2.0**-23),
        (Fraction(1, 2**150), 0.0),
        (Fraction(3, 2**151), 2.0**-149),
        (Fraction(2) ** 128 - 2**104, 2.0**128 - 2.0**104),
        (Fraction(2) ** 128 - 2**103, math.inf),
        (-(Fraction(2) ** 128), -math.inf),
    ],
)
def test_rounding_to_singles_at_the_edges(value: Fraction, expected: float) -> None:
    assert rounded(value.numerator, value.denominator, 24, -149) == expected


# -- accumulators


@pytest.mark.parametrize("empty", [Sum(True), Sum(False), Extreme("min"), Last(), Stacked("a", torch.median)])
def test_nothing_added_is_no_value(empty: Any) -> None:
    empty.add([])
    assert empty.value() is None


def test_a_sum_where_single_precision_would_lose_everything() -> None:
    total = Sum(mean=False)
    total.add([(torch.tensor(1e30), 1), (torch.tensor(1.0), 1), (torch.tensor(-1e30), 1)])
    assert total.value().item() == 1.0


def test_tensors_of_several_types_come_out_in_the_widest() -> None:
    total = Sum(mean=False)
    total.add([(torch.tensor(1, dtype=torch.uint8), 1), (torch.tensor(0.5), 1), (torch.tensor(0.25, dtype=torch.float64), 1)])
    assert total.value().dtype == torch.float64
    assert total.value().item() == 1.75


def test_the_smallest_of_several_types_and_numbers() -> None:
    least = Extreme("min")
    least.add([(torch.tensor(3), 1), (torch.tensor(2.5), 1), (4, 1)])
    assert least.value().item() == 2.5
    least.add([(1, 1)])
    assert least.value().item() == 1


def test_a_type_that_one_reduction_has_is_kept() -> None:
    most = Extreme("max")
    most.add([(torch.tensor(2**60 + 1), 1), (torch.tensor(2**60), 1)])
    assert (most.value().item(), most.value().dtype) == (2**60 + 1, torch.int64)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(3, torch.int64), (True, torch.int64), (0.1, torch.float64), (2**70, torch.float64), (-(2**63), torch.int64)],
)
def test_numbers_as_tensors(value: float, dtype: torch.dtype) -> None:
    assert (as_tensor(value).dtype, as_tensor(value).item()) == (dtype, value)


def test_values_wait_and_are_merged_together() -> None:
    class Counting(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    metrics = begun()
    value = torch.tensor(1.0)
    with Counting() as operations:
        for _ in range(1280):
            metrics.log("a", value, STEP, 4)
    assert operations.count / 1280 < 3  # detach and clone, and now and then a merge


# -- reductions and arguments


def test_reductions_are_read() -> None:
    assert [read_reduction("a", each) for each in ("MEAN", "avg", torch.mean, torch.amax, min)] == [
        "mean",
        "mean",
        "mean",
        "max",
        "min",
    ]
    assert read_reduction("a", torch.median) is torch.median

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]  # that is the point

        def __call__(self, values: Tensor) -> Tensor:
            return values.sum()

    own = Unhashable()
    assert read_reduction("a", own) is own


def test_the_same_arguments_are_recognised() -> None:
    def asked(reduce: Any, **changed: Any) -> Any:
        return (changed.get("bar", False), None, True, True, reduce, True, False, False)

    assert same_asked("a", asked("max"), asked(torch.max))
    first, second = ((lambda values: values.sum()) for _ in range(2))
    assert same_asked("a", asked(first), asked(second))
    assert not same_asked("a", asked(first), asked("sum"))
    assert not same_asked("a", asked("max"), asked("max", bar=True))


def test_names_with_both_kinds_and_a_loader() -> None:
    entry = Entry("validation_step", "v", STEP, "/dataloader_idx_1")
    assert (entry.name, entry.step_name, entry.epoch_name) == (
        "v/dataloader_idx_1",
        "v_step/dataloader_idx_1",
        "v_epoch/dataloader_idx_1",
    )


@pytest.mark.parametrize(("hook", "rule"), WHERE_LEGAL.items())
def test_every_hook_s_default_is_legal_there(hook: str, rule: tuple[tuple[str, ...], str]) -> None:
    entry = Entry(hook, "a", (False, None, None, None, "mean", True, False, False), "")
    assert (entry.on_step, entry.on_epoch) == (rule[1] == "step", rule[1] == "epoch")
    assert rule[1] in rule[0]


def test_flattening_refuses_names_that_are_none() -> None:
    assert dict(flattened({"a": 1, "b": {"c": 2}})) == {"a": 1, "b/c": 2}
    with pytest.raises(IllegalLog, match="A metric's name must be a string, and 1 is int"):
        list(flattened({"a": {1: 2}}))


# -- batch sizes


@pytest.mark.parametrize("size", [0, 1, 10**9, torch.tensor(3)])
def test_given_sizes(size: Any) -> None:
    assert given_size("a", size) == int(size)


@pytest.mark.parametrize("size", [-1, 1.0, "3", None, True, torch.tensor(1.5)])
def test_given_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(IllegalLog, match="batch_size must be the number of samples in the batch, an int"):
        given_size("a", size)


def test_a_size_on_a_device_is_not_read() -> None:
    with pytest.raises(IllegalLog, match="got a tensor on meta, and reading it would wait for the device"):
        given_size("a", torch.ones((), dtype=torch.int64, device="meta"))


# -- metric objects


class Wrapped(torchmetrics.MinMaxMetric):
    """A metric inside a metric."""


@pytest.mark.parametrize(
    "metric",
    [torchmetrics.MeanMetric(), torchmetrics.CatMetric(), Wrapped(torchmetrics.MeanMetric()), torchmetrics.AUROC("binary")],
    ids=lambda metric: type(metric).__name__,
)
def test_a_metric_that_waits_comes_back_whole(metric: Any) -> None:
    class Holder:
        def metrics(self) -> Iterator[Any]:
            yield metric

    def update(*values: float) -> None:
        target = [torch.tensor([0, 1])] if type(metric).__name__ == "BinaryAUROC" else []
        metric.update(torch.tensor(values), *target)

    def computed() -> Any:
        value = metric.compute()
        return value["raw"].tolist() if isinstance(value, dict) else value.tolist()

    metric.reset()
    update(0.25, 0.75)
    before = computed()
    aside = SetAside()
    aside.wait_for([Holder()])
    assert computed() == before, "taken before the first batch came"
    with torch.inference_mode():
        aside.take()
        assert not used(metric)
        update(0.5, 0.125)
        aside.put_back_unused()
        assert computed() != before, "given back although somebody uses it"
        aside.put_back()
    assert computed() == before
    update(0.5, 0.25)  # in place, outside of inference mode


def test_a_metric_out_of_a_checkpoint_is_found_again_by_its_name() -> None:
    module = torch.nn.ModuleDict({"seen": torchmetrics.MeanMetric()})
    module["seen"].update(3.0)
    metrics = begun(module=module)
    metrics.log("a", module["seen"], STEP, None)
    again = begun(module=module)
    again.load_state_dict(metrics.state_dict())
    again.end_batches()
    assert again.epoch_row() == {"a_epoch": 3.0}


# -- views


def test_published_values_stand_beside_logged_ones() -> None:
    metrics = begun()
    metrics.publish({"lr": 0.1}, bar=True, logged=True)
    metrics.publish({"hidden": 1}, callback=False)
    assert metrics.bar(torch.tensor(5.0)) == {"lr": 0.1, "loss": 5.0}
    metrics.log("a", 2.0, STEP, 1)
    assert {name: value.item() for name, value in metrics.callback().items()} == {"lr": 0.1, "a": 2.0, "a_step": 2.0}
    assert metrics.bar(torch.tensor(5.0)) == {"lr": 0.1}  # the module says itself what it shows
    assert sorted(metrics.logged()) == ["a_step", "lr"]


def test_a_loss_that_the_module_shows_itself_is_shown_as_it_says() -> None:
    metrics = begun()
    metrics.log("loss", 2.0, (True, None, True, False, "mean", True, False, False), 1)
    assert metrics.bar(torch.tensor(5.0)) == {"loss": 2.0}


def test_a_verb_starts_with_nothing() -> None:
    metrics = begun()
    metrics.log("a", 2.0, STEP, 1)
    metrics.callback()
    metrics.begin(SimpleNamespace(where="training_step"))
    assert (metrics.callback(), metrics.logged(), metrics.bar()) == ({}, {}, {})
    assert (metrics.step_row(), metrics.epoch_row(), metrics.epoch_results(None)) == ({}, {}, {})


def test_names_and_step_values() -> None:
    metrics = begun()
    assert metrics.step_row() == {}
    metrics.log("a", 2.0, STEP, 1)
    assert metrics.names() == [("training_step", "a")]
    assert metrics.step_row() == {"a_step": 2.0}


def test_numbers_are_read_in_one_transfer_a_type() -> None:
    class Transfers(TorchDispatchMode):
        stacks = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.stacks += func.overloadpacket.__name__ == "stack"
            return func(*args, **(kwargs or {}))

    values = {"a": torch.tensor(1.5), "b": torch.tensor([2.5]), "c": torch.tensor(16777217), "d": 3, "e": torch.tensor(True)}
    with Transfers() as transfers:
        assert read_numbers(values) == {"a": 1.5, "b": 2.5, "c": 16777217, "d": 3, "e": True}
    assert transfers.stacks == 3
    assert list(read_numbers(values)) == list(values)
    assert stack_scalars([values["a"], values["b"]]).tolist() == [1.5, 2.5]


def test_a_function_out_of_a_checkpoint_is_bound_when_it_is_given_again() -> None:
    asked = (False, None, False, True, lambda values: values.prod(), True, False, False)
    first = begun()
    for value in (2.0, 3.0):
        first.log("a", value, asked, 1)
    state = first.state_dict()
    ended = begun()
    ended.load_state_dict(state)
    ended.end_batches()
    assert ended.epoch_row()["a"] == 6.0, "the epoch ended before it was given"
    going_on = begun()
    going_on.load_state_dict(going_on_state := first.state_dict())
    going_on.log("a", 7.0, (*asked[:4], lambda values: values.prod(), *asked[5:]), 1)
    going_on.end_batches()
    assert going_on.epoch_row()["a"] == 42.0
    assert going_on_state["collections"].keys() == {"train"}


# -- tensors of all types


CPU_TENSORS = [
    *(torch.tensor(1.1, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    *(torch.tensor(value) for value in (2**62 + 1, True, math.nan, -0.0, math.inf, 1e-45)),
    torch.tensor(2**64 - 1, dtype=torch.uint64),
    torch.tensor([0.1]),
    torch.tensor(0.1, requires_grad=True) * 2,
]


@pytest.mark.parametrize("value", CPU_TENSORS, ids=lambda value: str(value.dtype))
def test_a_logged_tensor_is_read_as_it_was_whatever_becomes_of_it(value: Tensor) -> None:
    metrics, expected = begun(), value.detach().clone().reshape(())
    metrics.log("a", value, STEP, None)
    with torch.no_grad():
        value.fill_(0)
    found = metrics.callback()["a_step"]
    assert (found.dtype, found.requires_grad) == (expected.dtype, False)
    assert torch.equal(found.reshape(1).view(torch.uint8), expected.reshape(1).view(torch.uint8))


@pytest.mark.parametrize("reduce", ["mean", "sum", "min", "max", "last"])
def test_tensors_and_numbers_of_all_kinds_under_one_name_become_one_value(reduce: str) -> None:
    asked: Any = (False, None, True, True, reduce, True, False, False)
    of_each_kind = [torch.tensor(0.1), 0.25, torch.tensor(0.3, dtype=torch.float64), torch.tensor(4), 1, torch.tensor(0.5)]
    total: Any = {"min": Extreme("min"), "max": Extreme("max"), "last": Last()}.get(reduce, Sum(reduce == "mean"))
    total.add([(value, 2) for value in of_each_kind])
    metrics = begun()
    for value in of_each_kind:
        metrics.log("a", value, asked, 2)
    metrics.end_batches()
    found, expected = metrics.callback()["a_epoch"], as_tensor(total.value())
    assert (found.dtype, float(found)) == (expected.dtype, float(expected))


# -- unusual tensors


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (torch.ones(()).to(torch.float8_e4m3fn), "float8"),
        (torch.tensor([1.0]).to_sparse(), "sparse"),
        (torch.empty((), device="meta"), "meta"),
    ],
)
def test_a_tensor_that_cannot_be_added_is_refused_with_what_to_log_instead(value: Tensor, kind: str) -> None:
    with pytest.raises(IllegalLog, match=f"got a {kind} tensor, whose values cannot be added. Log it as "):
        begun().log("x", value, STEP, None)


def test_unsigned_integers_are_summed_and_compared_as_such() -> None:
    large = torch.tensor([2**63 + 2048, 2**63 + 4096], dtype=torch.uint64)
    total = Sum(mean=True)
    total.add([(large[0], 1), (large[1], 1)])
    assert float(total.value()) == float(2**63 + 3 * 1024)
    for dtype in (torch.uint16, torch.uint32, torch.uint64):
        most = Extreme("max")
        most.add([(torch.tensor(2, dtype=dtype), 1), (torch.tensor(7, dtype=dtype), 1)])
        assert int(most.value()) == 7


@pytest.mark.parametrize("name", [["x"], {"x": 1}, 3, None])
def test_a_name_that_is_no_string_is_refused(name: Any) -> None:
    with pytest.raises(IllegalLog, match="a metric's name must be a string"):
        begun().log(name, 1.0, STEP, None)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64, torch.bfloat16])
def test_what_two_devices_had_is_joined_where_it_is_read_onto_one(kind: torch.dtype) -> None:
    """A file holds a part for each device on which values came; one machine may have one of them alone."""
    first, second = [torch.tensor(value, dtype=kind) for value in (3, 9)], [torch.tensor(value, dtype=kind) for value in (2, 6)]
    parts = []
    for values in (first, second):
        parts.append((Sum(mean=True), Extreme("max"), Extreme("min")))
        for each in parts[-1]:
            each.add([(value, 1) for value in values])
    total, most, least = Sum(mean=True), Extreme("max"), Extreme("min")
    states = [[each.state_dict() for each in part] for part in parts]
    total.load_state_dict({**states[0][0], "count": 4, "bins": states[0][0]["bins"] + states[1][0]["bins"]})
    most.load_state_dict({**states[0][1], "tensors": states[0][1]["tensors"] + states[1][1]["tensors"]})
    least.load_state_dict({**states[0][2], "tensors": states[0][2]["tensors"] + states[1][2]["tensors"]})
    assert total.value().item() == 5
    assert most.value() == torch.tensor(9, dtype=kind)
    assert least.value() == torch.tensor(2, dtype=kind)
