"""Guarantee 9: an epoch's values are the true ones, over whatever batches, loaders and accumulation, to the last bit."""

from __future__ import annotations

import math
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.metrics.metrics import Metrics

Value = Callable[[float], Any]

# -- the truth, in fractions


def nearest_double(true: Fraction) -> float:
    try:
        return true.numerator / true.denominator
    except OverflowError:
        return math.inf if true > 0 else -math.inf


def is_nearest_single(given: float, true: Fraction) -> bool:
    """Whether no other float32 lies nearer to ``true``."""
    largest = Fraction(2) ** 128
    if math.isinf(given):
        return abs(true) >= largest - Fraction(2) ** 103
    (bits,) = struct.unpack("<i", struct.pack("<f", given))
    mine = abs(Fraction(given) - true)
    for neighbour in (bits - 1, bits + 1):
        (other,) = struct.unpack("<f", struct.pack("<i", max(0, neighbour) if bits >= 0 else neighbour))
        if math.isfinite(other) and abs(Fraction(other) - true) < mine:
            return False
    return True


def mean_of(values: Sequence[float], sizes: Sequence[int]) -> Fraction:
    return sum((Fraction(value) * size for value, size in zip(values, sizes, strict=True)), Fraction()) / sum(sizes)


def logged(values: Sequence[Any], sizes: Sequence[int], reduce: Any = "mean") -> Any:
    """The epoch's value of ``values`` logged one after another."""
    metrics = Metrics()
    metrics.begin(SimpleNamespace(where="validation_step"))
    metrics.start_epoch("val")
    for value, size in zip(values, sizes, strict=True):
        metrics.log("a", value, (False, None, None, None, reduce, True, False, False), size)
    metrics.end_batches()
    return metrics.epoch_results(None)["a"]


def batches_of(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, int]]]:
    return st.lists(st.tuples(numbers, st.integers(1, 1000)), min_size=1, max_size=40)


SINGLES = st.floats(width=32, allow_nan=False, allow_infinity=False)
DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**62), 2**62)
REPEATED = st.sampled_from([1, 3, 50])  # up to 2000 values: more than wait to be merged


@given(batches_of(DOUBLES), st.sampled_from(["mean", "sum"]))
def test_python_floats(batches: list[tuple[float, int]], reduce: str) -> None:
    values, sizes = zip(*batches, strict=True)
    true = mean_of(values, sizes) if reduce == "mean" else sum(map(Fraction, values), Fraction())
    assert logged(values, sizes, reduce) == nearest_double(true)


@given(batches_of(DOUBLES), st.sampled_from(["mean", "sum"]))
def test_double_tensors(batches: list[tuple[float, int]], reduce: str) -> None:
    values, sizes = zip(*batches, strict=True)
    found = logged([torch.tensor(value, dtype=torch.float64) for value in values], sizes, reduce)
    true = mean_of(values, sizes) if reduce == "mean" else sum(map(Fraction, values), Fraction())
    assert found.dtype == torch.float64
    assert found.item() == nearest_double(true)


@given(batches_of(SINGLES), st.sampled_from(["mean", "sum"]), REPEATED)
def test_single_tensors(batches: list[tuple[float, int]], reduce: str, repeated: int) -> None:
    values, sizes = zip(*batches * repeated, strict=True)
    found = logged([torch.tensor(value, dtype=torch.float32) for value in values], sizes, reduce)
    true = mean_of(values, sizes) if reduce == "mean" else sum(map(Fraction, values), Fraction())
    assert found.dtype == torch.float32
    assert is_nearest_single(found.item(), true)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(batches=batches_of(st.floats(-60000, 60000, width=16)))
def test_half_tensors_come_out_as_singles(dtype: torch.dtype, batches: list[tuple[float, int]]) -> None:
    tensors = [torch.tensor(value, dtype=dtype) for value, _ in batches]
    sizes = [size for _, size in batches]
    found = logged(tensors, sizes)
    assert found.dtype == torch.float32
    assert is_nearest_single(found.item(), mean_of([tensor.item() for tensor in tensors], sizes))


@given(batches_of(INTEGERS), st.booleans())
def test_integers(batches: list[tuple[int, int]], as_tensors: bool) -> None:
    values, sizes = zip(*batches, strict=True)
    given = [torch.tensor(value) for value in values] if as_tensors else values
    mean = logged(given, sizes)
    assert (mean.item() if as_tensors else mean) == nearest_double(mean_of(values, sizes))
    total = logged(given, sizes, "sum")
    if not as_tensors:
        assert total == sum(values)
        assert type(total) is int
    elif -(2**63) <= sum(values) < 2**63:
        assert total.dtype == torch.int64
        assert total.item() == sum(values)
    else:
        assert total.item() == float(sum(values))


@given(st.lists(DOUBLES | SINGLES.map(lambda value: torch.tensor(value)) | INTEGERS, min_size=1, max_size=20))
def test_kinds_may_be_mixed(values: list[Any]) -> None:
    exact = [Fraction(value.item() if isinstance(value, Tensor) else value) for value in values]
    found = logged(values, [3] * len(values))
    true = sum(exact, Fraction()) / len(values)
    if any(isinstance(value, Tensor) for value in values):
        assert is_nearest_single(found.item(), true)
    else:
        assert found == nearest_double(true)


@given(batches_of(SINGLES), st.randoms(use_true_random=False))
def test_the_order_does_not_matter(batches: list[tuple[float, int]], random: Any) -> None:
    shuffled = list(batches)
    random.shuffle(shuffled)
    first, second = (logged([torch.tensor(v) for v, _ in order], [n for _, n in order]) for order in (batches, shuffled))
    assert torch.equal(first, second)


@given(st.lists(SINGLES, min_size=2, max_size=60), st.data())
def test_the_split_into_batches_does_not_matter(values: list[float], data: st.DataObject) -> None:
    """Sums of the same samples, however they are cut into batches whose own sums are exact."""
    values = [float(int(value) % 1000) for value in values]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(values) - 1))))
    parts = [values[i:j] for i, j in zip([0, *cuts], [*cuts, len(values)], strict=True)]
    total = logged([torch.tensor(part).sum() for part in parts], [len(part) for part in parts], "sum")
    assert total.item() == sum(values)
    for reduce, choose in (("min", min), ("max", max)):
        assert logged([choose(part) for part in parts], [1] * len(parts), reduce) == choose(values)
        tensors = [torch.tensor(choose(part)) for part in parts]
        assert logged(tensors, [1] * len(parts), reduce).item() == choose(values)


@given(st.lists(st.floats(width=32) | st.sampled_from([math.inf, -math.inf, math.nan]), min_size=1, max_size=8))
@pytest.mark.parametrize("kind", [float, torch.tensor, lambda value: torch.tensor(value, dtype=torch.float64)])
@pytest.mark.parametrize("reduce", ["mean", "sum", "min", "max", "last"])
def test_values_that_are_not_finite(reduce: str, kind: Value, values: list[float]) -> None:
    assume(any(not math.isfinite(value) for value in values))
    if reduce == "last":
        expected = values[-1]
    elif any(math.isnan(value) for value in values):
        expected = math.nan
    elif reduce in ("min", "max"):
        expected = min(values) if reduce == "min" else max(values)
    else:
        found = {value for value in values if math.isinf(value)}
        expected = found.pop() if len(found) == 1 else math.nan
    given = float(logged([kind(value) for value in values], [2] * len(values), reduce))
    assert given == expected or (math.isnan(given) and math.isnan(expected))


def test_a_batch_of_no_samples_weighs_nothing() -> None:
    for value in (5.0, math.inf, torch.tensor(5.0), torch.tensor(math.inf)):
        assert float(logged([value, 1.0], [0, 4])) == 1.0


# -- through the trainer


class Numbers(Dataset[Tensor]):
    def __init__(self, count: int, first: int = 0) -> None:
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float((self.first + index) % 97)])


class Logs(leyden.LightningModule):
    """Logs exact statistics of each batch in every stage, under every reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def statistics(self, x: Tensor, stage: str) -> None:
        asked: dict[str, Any] = {"on_step": False, "on_epoch": True}
        self.log(f"{stage}_mean", x.double().mean(), **asked)
        self.log(f"{stage}_sum", x.sum(), reduce_fx="sum", **asked)
        self.log(f"{stage}_count", len(x), reduce_fx="sum", **asked)
        self.log(f"{stage}_min", x.min(), reduce_fx="min", **asked)
        self.log(f"{stage}_max", x.max(), reduce_fx="max", **asked)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.statistics(batch, "train")
        return self.layer(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.statistics(batch, "val")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.001)


def statistics_of(values: Sequence[int], stage: str) -> dict[str, Any]:
    return {
        f"{stage}_mean": pytest.approx(sum(values) / len(values), abs=0, rel=4e-16),  # each batch's own mean was rounded
        f"{stage}_sum": sum(values),
        f"{stage}_count": len(values),
        f"{stage}_min": min(values),
        f"{stage}_max": max(values),
    }


@settings(max_examples=25)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 20), st.booleans())
def test_epoch_values_of_a_run(count: int, batch_size: int, accumulate: int, limit: int, drop_last: bool) -> None:
    assume(count >= batch_size)
    loader = DataLoader(Numbers(count), batch_size=batch_size, drop_last=drop_last)
    trainer = kit.trainer(accumulate_grad_batches=accumulate, limit_train_batches=limit, limit_val_batches=limit)
    trainer.fit(Logs(), loader, loader)
    used = min(len(loader), limit) * batch_size if drop_last else min(count, limit * batch_size)
    values = [number % 97 for number in range(used)]
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert metrics == {**statistics_of(values, "train"), **statistics_of(values, "val")}


@settings(max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=2, max_size=4))
def test_each_loader_has_its_own_values(loaders: list[tuple[int, int]]) -> None:
    given = [DataLoader(Numbers(count, 10 * at), batch_size=size) for at, (count, size) in enumerate(loaders)]
    results = kit.trainer().validate(Logs(), given, verbose=False)
    for at, (count, _) in enumerate(loaders):
        values = [(10 * at + number) % 97 for number in range(count)]
        assert results[at] == {f"{name}/dataloader_idx_{at}": v for name, v in statistics_of(values, "val").items()}


@settings(max_examples=15)
@given(st.integers(2, 30), st.integers(1, 6))
def test_validation_in_the_middle_of_an_epoch_changes_nothing(count: int, every: int) -> None:
    loader = DataLoader(Numbers(count), batch_size=2)
    trainer = kit.trainer(val_check_interval=min(every, len(loader)))
    trainer.fit(Logs(), loader, DataLoader(Numbers(5), batch_size=2))
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("train_")}
    assert metrics == statistics_of([number % 97 for number in range(count)], "train")


# -- across a checkpoint and a long epoch


@given(
    batches_of(DOUBLES | SINGLES.map(torch.tensor)), st.integers(0, 40), st.sampled_from(["mean", "sum", "min", "max", "last"])
)
def test_an_epoch_in_two_halves(batches: list[tuple[Any, int]], cut: int, reduce: str) -> None:
    asked = (False, None, None, None, reduce, True, False, False)

    def started(state: dict[str, Any] | None) -> Metrics:
        metrics = Metrics()
        metrics.begin(SimpleNamespace(where="validation_step"))
        metrics.start_epoch("val")
        if state is not None:
            metrics.load_state_dict(state)
            metrics.enter("val")
        return metrics

    def log(metrics: Metrics, part: list[tuple[Any, int]]) -> None:
        for value, size in part:
            metrics.log("a", value, asked, size)

    first = started(None)
    log(first, batches[:cut])
    second = started(first.state_dict())
    log(second, batches[cut:])
    second.end_batches()
    whole = logged([value for value, _ in batches], [size for _, size in batches], reduce)
    found = second.epoch_results(None)["a"]
    assert type(found) is type(whole)
    assert found == whole or (found != found and whole != whole)


@pytest.mark.parametrize("reduce", ["mean", "sum", "min", "max", "last"])
def test_a_long_epoch_needs_no_more_memory_than_a_short_one(reduce: str) -> None:
    metrics = Metrics()
    metrics.begin(SimpleNamespace(where="training_step"))
    metrics.start_epoch("train")
    asked = (False, None, True, True, reduce, True, False, False)
    value, number = torch.tensor(0.1), 0.1

    def log(times: int) -> None:
        for _ in range(times):
            metrics.log("tensor", value, asked, 64)
            metrics.log("number", number, asked, 64)
            metrics.log("whole", 7, asked, 64)

    log(300)
    tracemalloc.start()
    try:
        log(300)
        before, _ = tracemalloc.get_traced_memory()
        log(6000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 50_000
