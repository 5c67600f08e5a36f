"""A dataset of tensors is read by whole batches, and nobody can tell but by the clock."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import fit
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Subset, TensorDataset, WeightedRandomSampler, default_collate

import leyden
from leyden.data.source import Source
from leyden.data.whole_batches import _WholeBatches, by_whole_batches

DTYPES = (torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16, torch.uint8)


def tensors(length: int, dtypes: Any, shapes: Any) -> list[Tensor]:
    made = torch.Generator().manual_seed(7)
    return [(torch.randn((length, *shape), generator=made) * 3).to(dtype) for dtype, shape in zip(dtypes, shapes, strict=True)]


def read_by(loader: Any, how: str, epochs: int = 2) -> tuple[list[Any], list[Any]]:
    """The batches of some epochs, and the random states after each."""
    torch.manual_seed(3)
    batches, states = [], []
    source = Source(loader, "loader", 1.0, "limit", training=how == "training")
    for epoch in range(epochs):
        if how == "plain":
            batches += list(loader)
        else:
            batches += [batch for batch, _, _ in source.read(epoch)]
        states.append((torch.get_rng_state(), None if loader.generator is None else loader.generator.get_state()))
    return batches, states


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor) and one.layout is not torch.strided:
        assert one.layout is other.layout
        assert_same(one.to_dense(), other.to_dense())
    elif isinstance(one, np.ndarray):
        np.testing.assert_array_equal(one, other, strict=True)
    elif isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert one.device == other.device
        assert torch.equal(one, other) or (one.is_floating_point() and torch.allclose(one, other, equal_nan=True))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_same(list(one.values()), list(other.values()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_tensors_any_sampler_any_subset_the_same_batches_and_random_states(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 13), "length")
    parts = data.draw(
        st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from([(), (3,), (2, 0), (2, 3)])), min_size=1, max_size=3)
    )
    dataset: Any = TensorDataset(*tensors(length, *zip(*parts, strict=True)))
    for _ in range(data.draw(st.integers(0, 2), "subsets")):
        chosen: Any = data.draw(st.lists(st.integers(-len(dataset), len(dataset) - 1), min_size=1, max_size=9))
        kind = data.draw(st.sampled_from([list, tuple, np.array, torch.tensor]))
        dataset = Subset(dataset, kind(chosen))
    arguments: dict[str, Any] = {"batch_size": data.draw(st.integers(1, 5)), "drop_last": data.draw(st.booleans())}
    order = data.draw(st.sampled_from(["in order", "shuffled", "weighted", "own batches"]))
    seeded = data.draw(st.booleans(), "generator")

    def loader() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(5) if seeded else None
        if order == "shuffled":
            return DataLoader(dataset, shuffle=True, generator=generator, **arguments)
        if order == "weighted":
            sampler = WeightedRandomSampler([1.0 + i for i in range(len(dataset))], 7, generator=generator)
            return DataLoader(dataset, sampler=sampler, generator=generator, **arguments)
        if order == "own batches":
            whole = BatchSampler(range(len(dataset)), arguments["batch_size"], arguments["drop_last"])
            return DataLoader(dataset, batch_sampler=[list(batch) for batch in whole] or [[0]], generator=generator)
        return DataLoader(dataset, generator=generator, **arguments)

    if len(loader()) == 0:
        return
    expected, states = read_by(loader(), "plain")
    for how in ("training", "evaluation"):
        given_batches, given_states = read_by(loader(), how)
        assert_same(given_batches, expected)
        if how == "evaluation" or order != "own batches":
            assert_same(given_states, states)


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def training_step(self, batch: Any) -> Tensor:
        return self.layer(batch[0]).pow(2).mean()

    def validation_step(self, batch: Any) -> None:
        self.log("value", self.layer(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def samples_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The indices that were looked up one by one, as they are."""
    looked_up: list[Any] = []
    as_always = TensorDataset.__getitem__

    def getitem(self: TensorDataset, index: Any) -> Any:
        looked_up.append(index)
        return as_always(self, index)

    monkeypatch.setattr(TensorDataset, "__getitem__", getitem)
    return looked_up


@pytest.mark.parametrize("wrapped", ["plain", "subset", "random split", "seeded workers"])
def test_training_and_evaluation_read_no_sample_alone(wrapped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = samples_read_one_by_one(monkeypatch)
    dataset: Any = TensorDataset(torch.randn(16, 3))
    if wrapped == "subset":
        dataset = Subset(dataset, range(12))
    elif wrapped == "random split":
        dataset, _ = torch.utils.data.random_split(dataset, [12, 4])
    elif wrapped == "seeded workers":
        monkeypatch.setenv("PL_SEED_WORKERS", "1")
    fit(Net(), DataLoader(dataset, 4, shuffle=True), DataLoader(dataset, 4), max_epochs=2)
    assert looked_up == []


class OwnItems(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        return tuple(tensor[index] + 1 for tensor in self.tensors)


class OwnBatches(TensorDataset):
    def __getitems__(self, indices: Any) -> Any:
        return [(tensor[index] + 1,) for index in indices for tensor in self.tensors]


class OwnSubset(Subset[Any]):
    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)

    def __getitems__(self, indices: Any) -> Any:
        return [self[index] for index in indices]


class Plain(Dataset[Any]):
    def __getitem__(self, index: int) -> Tensor:
        return torch.full((2,), float(index))

    def __len__(self) -> int:
        return 6


def with_instance_attribute() -> Subset[Any]:
    subset = Subset(TensorDataset(torch.arange(6.0)), range(6))
    subset.__getitems__ = lambda indices: [(torch.tensor(-1.0),) for _ in indices]  # type: ignore[method-assign]
    return subset


UNUSUAL = {
    "own __getitem__": lambda: DataLoader(OwnItems(torch.arange(6.0)), 2),
    "own __getitems__": lambda: DataLoader(OwnBatches(torch.arange(6.0)), 2),
    "own subset": lambda: DataLoader(OwnSubset(TensorDataset(torch.arange(6.0)), range(6)), 2),
    "instance's __getitems__": lambda: DataLoader(with_instance_attribute(), 2),
    "own dataset": lambda: DataLoader(Plain(), 2),
    "own collate_fn": lambda: DataLoader(TensorDataset(torch.arange(6.0)), 2, collate_fn=lambda samples: len(samples)),
    "no batches": lambda: DataLoader(TensorDataset(torch.arange(6.0)), batch_size=None),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_anything_unusual_is_left_alone(kind: str) -> None:
    loader = UNUSUAL[kind]()
    iterator = iter(loader)
    assert type(by_whole_batches(iterator)._dataset_fetcher) is not _WholeBatches
    assert_same(read_by(UNUSUAL[kind](), "training")[0], read_by(loader, "plain")[0])


def unusual_tensors() -> dict[str, Tensor]:
    plain = torch.randn(6, 2, 4, 4)
    return {
        "requires grad": torch.randn(6, 2, requires_grad=True),
        "strided": torch.randn(2, 6).T,
        "channels last": plain.to(memory_format=torch.channels_last),
        "expanded": torch.randn(1, 3).expand(6, 3),
        "sparse": torch.eye(6).to_sparse(),
        "parameter": nn.Parameter(torch.randn(6, 2)),
        "conjugate": torch.randn(6, dtype=torch.complex64).conj(),
    }


@pytest.mark.parametrize("kind", unusual_tensors())
def test_tensors_that_stack_in_another_way_are_stacked(kind: str) -> None:
    loader = DataLoader(TensorDataset(unusual_tensors()[kind]), 4)
    if kind == "sparse":
        loader = DataLoader(TensorDataset(torch.arange(6.0)), 4)
        loader.dataset.tensors = (torch.arange(6.0), unusual_tensors()["strided"])
    for given_batch, expected in zip(by_whole_batches(iter(loader)), iter(loader), strict=True):
        assert_same(given_batch, expected)
        assert given_batch[0].requires_grad == expected[0].requires_grad


def test_tensors_that_change_between_batches_are_the_new_ones() -> None:
    dataset = TensorDataset(torch.zeros(6))
    batches = by_whole_batches(iter(DataLoader(dataset, 2)))
    assert next(batches)[0].tolist() == [0, 0]
    dataset.tensors = (torch.ones(6),)
    assert next(batches)[0].tolist() == [1, 1]
    dataset.tensors[0].add_(1)
    assert next(batches)[0].tolist() == [2, 2]


@pytest.mark.parametrize("collate", [default_collate, None])
def test_a_batch_is_a_copy_and_not_a_view_of_the_dataset(collate: Any) -> None:
    data = torch.zeros(4)
    for (batch,) in by_whole_batches(iter(DataLoader(TensorDataset(data), 4, collate_fn=collate))):
        batch.add_(1)
    assert data.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("batches", "error"),
    [
        *(([[0, 9]], IndexError), ([[0.5]], (IndexError, TypeError)), ([["a"]], (TypeError, ValueError)), ([[]], Exception)),
        *(([[True, 2]], RuntimeError), ([[torch.tensor([1]), 2]], RuntimeError), ([[torch.tensor(True), 2]], RuntimeError)),
    ],
)
def test_wrong_indices_fail_as_in_a_plain_loop(batches: Any, error: Any) -> None:
    def loader() -> DataLoader[Any]:
        return DataLoader(TensorDataset(torch.arange(4.0)), batch_sampler=batches)

    with pytest.raises(error) as plain:
        list(loader())
    with pytest.raises(error) as ours:
        list(by_whole_batches(iter(loader())))
    assert type(ours.value) is type(plain.value)
    assert str(ours.value) == str(plain.value)


@pytest.mark.parametrize(
    "batches",
    [
        *([[True, True]], [[-1, 0]], [[torch.tensor(1)]], [(1, 2)], [np.array([1, 2])], [range(3)]),
        *([[torch.tensor([1]), torch.tensor([2])]], [[np.array([1]), np.array([2])]], [[True]], [[np.int32(2), 1]]),
    ],
)
def test_indices_of_any_kind_mean_what_they_mean_in_a_plain_loop(batches: Any) -> None:
    loader = DataLoader(TensorDataset(torch.arange(4.0), torch.arange(4)), batch_sampler=batches)
    assert_same(list(by_whole_batches(iter(loader))), list(loader))


def test_a_collate_function_taught_something_about_tensors_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils import collate

    monkeypatch.setitem(collate.default_collate_fn_map, torch.Tensor, lambda batch, *, collate_fn_map: "own")
    loader = DataLoader(TensorDataset(torch.arange(4.0)), 2)
    assert list(by_whole_batches(iter(loader))) == list(loader) == [["own"], ["own"]]


class Listed(Dataset[Any]):
    """Samples as they are given, read one by one."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)


class Pair(NamedTuple):
    x: Any
    y: Any


LEAVES = st.sampled_from(
    [
        *(torch.arange(3.0), torch.arange(4.0), torch.tensor(2), torch.ones(2, 0), nn.Parameter(torch.ones(3)), torch.eye(3).T),
        *(torch.eye(2).to_sparse(), np.arange(3), np.float32(1.5), 3, 2.5, True, "text", None, object),
    ]
)
SAMPLES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.tuples(inner, inner).map(lambda both: Pair(*both)),
        st.dictionaries(st.sampled_from(["x", "y", 3]), inner, max_size=3),
        st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2).map(OrderedDict),
    ),
    max_leaves=4,
)


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list|Using a non-tuple sequence:UserWarning")  # torch's, said once
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_samples_of_any_kind_are_collated_to_the_same_batch_or_refused_in_the_same_words(data: st.DataObject) -> None:
    one = data.draw(SAMPLES, "sample")
    others = st.one_of(st.just(one), SAMPLES) if data.draw(st.booleans(), "mixed") else st.just(one)
    loader = DataLoader(Listed([one, *data.draw(st.lists(others, max_size=3), "others")]), 4)

    def outcome(batches: Any) -> Any:
        try:
            return list(batches)
        except Exception as error:
            return type(error), str(error)

    assert_same(outcome(by_whole_batches(iter(loader))), outcome(iter(loader)))


def test_samples_are_stacked_without_the_detour_and_a_profiler_still_sees_each_batch() -> None:
    loader = DataLoader(Listed([(torch.ones(2), torch.tensor(1))] * 6), 2)
    assert by_whole_batches(iter(loader))._dataset_fetcher.collate_fn is not default_collate  # type: ignore[attr-defined]
    with torch.profiler.profile() as seen:
        assert len(list(by_whole_batches(iter(loader)))) == 3
    marks = [event for event in seen.events() if event.name.startswith("enumerate(DataLoader)")]
    assert len(marks) == 3 + 1  # and the end


def test_a_collate_function_taught_something_about_dicts_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils.data._utils import collate

    monkeypatch.setitem(collate.default_collate_fn_map, dict, lambda batch, *, collate_fn_map: "own")
    loader = DataLoader(Listed([{"x": torch.ones(1)}] * 4), 2)
    assert list(by_whole_batches(iter(loader))) == list(loader) == ["own", "own"]
