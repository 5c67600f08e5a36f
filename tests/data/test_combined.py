"""CombinedLoader: its four modes, nested structures, limits and lengths, early ends, and how it trains."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import kit
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import leyden
from leyden.data.combined import MODES, CombinedLoader
from leyden.errors import EmptyLoader, InvalidLoader, InvalidOption, LeakedStopIteration
from leyden.testing import BoringModel, RandomDataset


class Named:
    """A loader of ``a0, a1 ...``."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.opened = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        self.opened += 1
        return (f"{self.name}{index}" for index in range(self.count))


class Unsized:
    """The same without a length."""

    def __init__(self, name: str, count: int) -> None:
        self.inner = Named(name, count)

    def __iter__(self) -> Iterator[str]:
        return iter(self.inner)


def batches(loader: CombinedLoader) -> list[Any]:
    return [batch for batch, _, _ in loader]


# -- the modes


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("min_size", [["a0", "b0"], ["a1", "b1"]]),
        ("max_size_cycle", [["a0", "b0"], ["a1", "b1"], ["a0", "b2"], ["a1", "b3"], ["a0", "b4"]]),
        ("max_size", [["a0", "b0"], ["a1", "b1"], [None, "b2"], [None, "b3"], [None, "b4"]]),
        ("sequential", ["a0", "a1", "b0", "b1", "b2", "b3", "b4"]),
    ],
)
@pytest.mark.parametrize("kind", [Named, Unsized])
def test_modes(mode: Any, expected: list[Any], kind: Any) -> None:
    loader = CombinedLoader([kind("a", 2), kind("b", 5)], mode)
    assert batches(loader) == expected
    assert batches(loader) == expected  # and again
    if kind is Named:
        assert len(loader) == len(expected)
    else:
        with pytest.raises(TypeError, match="does not tell its length"):
            len(loader)


def test_indices() -> None:
    given = [Named("a", 2), Named("b", 3)]
    assert [(index, loader) for _, index, loader in CombinedLoader(given, "max_size")] == [(0, 0), (1, 0), (2, 0)]
    one_by_one = CombinedLoader(given, "sequential")
    assert [(index, loader) for _, index, loader in one_by_one] == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1)]


def test_the_default_is_min_size() -> None:
    assert CombinedLoader([Named("a", 1)]).mode == "min_size"


def test_an_unknown_mode() -> None:
    with pytest.raises(InvalidOption, match="mode='longest' cannot be used: expected one of min_size, max_size_cycle"):
        CombinedLoader([], "longest")  # type: ignore[arg-type]  # on purpose


# -- structures


def test_nested_structures_come_back_in_the_batch() -> None:
    loader = CombinedLoader({"x": Named("a", 2), "y": [Named("b", 2), (Named("c", 2),)]})
    assert batches(loader)[0] == {"x": "a0", "y": ["b0", ("c0",)]}
    assert [each.name for each in loader.flattened] == ["a", "b", "c"]


def test_one_loader_alone() -> None:
    assert batches(CombinedLoader(Named("a", 2))) == ["a0", "a1"]


@pytest.mark.parametrize("mode", MODES)
def test_no_loader(mode: Any) -> None:
    assert batches(CombinedLoader([], mode)) == []
    assert len(CombinedLoader([], mode)) == 0


def test_loaders_can_be_exchanged() -> None:
    first, second = Named("a", 1), Named("b", 1)
    loader = CombinedLoader({"x": first, "y": second})
    loader.flattened = [second, first]
    assert loader.iterables == {"x": second, "y": first}
    assert batches(loader) == [{"x": "b0", "y": "a0"}]
    with pytest.raises(InvalidOption, match="a list of 2 loaders"):
        loader.flattened = [first]


def test_samplers_are_shown_in_the_structure() -> None:
    loader = CombinedLoader({"x": DataLoader(RandomDataset(2, 2)), "y": Named("a", 1)})
    assert isinstance(loader.sampler["x"], torch.utils.data.SequentialSampler)
    assert loader.sampler["y"] is None
    assert isinstance(loader.batch_sampler["x"], torch.utils.data.BatchSampler)


def test_iterators_are_let_go_after_the_pass() -> None:
    loader = CombinedLoader([Named("a", 2)])
    for _ in loader:
        assert len(loader.iterators) == 1
    assert loader.iterators == []
    unfinished = iter(loader)
    next(unfinished)
    loader.reset()
    assert (loader.iterators, loader.finished) == ([], [])


# -- limits


@pytest.mark.parametrize(
    ("mode", "limits", "expected"),
    [
        ("min_size", [1, 3], [["a0", "b0"]]),
        ("max_size_cycle", [1, 2], [["a0", "b0"], ["a0", "b1"]]),
        ("max_size", [1, 2], [["a0", "b0"], [None, "b1"]]),
        ("sequential", [1, 2], ["a0", "b0", "b1"]),
        ("sequential", [float("inf"), 0], ["a0", "a1"]),
    ],
)
def test_limits(mode: Any, limits: list[Any], expected: list[Any]) -> None:
    loader = CombinedLoader([Named("a", 2), Named("b", 5)], mode)
    loader.limits = limits
    assert batches(loader) == expected
    assert len(loader) == len(expected)


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    mode=st.sampled_from(MODES),
    limit=st.one_of(st.none(), st.integers(1, 5)),
)
def test_a_pass_is_as_long_as_it_says(counts: list[int], mode: Any, limit: int | None) -> None:
    loader = CombinedLoader([Named(str(at), count) for at, count in enumerate(counts)], mode)
    loader.limits = None if limit is None else [limit] * len(counts)
    read = list(loader)
    assert len(read) == len(loader)
    seen = [batch for each, _, _ in read for batch in (each if isinstance(each, list) else [each]) if batch is not None]
    used = [min(count, limit or count) for count in counts]
    if mode in ("max_size", "sequential"):  # every batch once
        assert sorted(seen) == sorted(f"{at}{index}" for at, count in enumerate(used) for index in range(count))
    elif mode == "max_size_cycle":  # every batch at least once
        assert set(seen) == {f"{at}{index}" for at, count in enumerate(used) for index in range(count)}
    else:
        assert len(seen) == min(used) * len(counts)


# -- ends that are mistakes


def test_a_loader_with_nothing_cannot_be_repeated() -> None:
    with pytest.raises(EmptyLoader, match=r"Loader 0 of the CombinedLoader \(Named\) had no batch"):
        batches(CombinedLoader([Named("a", 0), Named("b", 2)], "max_size_cycle"))


def test_nor_can_one_that_is_read_once() -> None:
    once = iter(["a0"])
    with pytest.raises(EmptyLoader, match="can be iterated more than once"):
        batches(CombinedLoader([once, Named("b", 3)], "max_size_cycle"))


class Leaking(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 2:
            raise StopIteration
        return torch.ones(32)


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_iteration_of_the_dataset_is_no_end(mode: Any) -> None:
    loader = CombinedLoader([DataLoader(Leaking()), DataLoader(RandomDataset(32, 6))], mode)
    with pytest.raises(LeakedStopIteration, match="while batch 2 was read"):
        batches(loader)


# -- in a run


class Several(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.shapes.append({name: None if each is None else tuple(each.shape) for name, each in batch.items()})
        return sum(self.step(each) for each in batch.values() if each is not None)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.shapes.append((batch_idx, dataloader_idx))


trainer = partial(kit.trainer, limit_val_batches=0, num_sanity_val_steps=0)


def two(mode: Any = None) -> Any:
    loaders = {"a": DataLoader(RandomDataset(32, 2)), "b": DataLoader(RandomDataset(32, 6), batch_size=2)}
    return loaders if mode is None else CombinedLoader(loaders, mode)


@pytest.mark.parametrize(
    ("mode", "steps", "last"),
    [
        (None, 3, {"a": (1, 32), "b": (2, 32)}),  # a dict of loaders is read in max_size_cycle
        ("min_size", 2, {"a": (1, 32), "b": (2, 32)}),
        ("max_size_cycle", 3, {"a": (1, 32), "b": (2, 32)}),
        ("max_size", 3, {"a": None, "b": (2, 32)}),
    ],
)
def test_training_on_several(mode: Any, steps: int, last: Any) -> None:
    module, run = Several(), trainer()
    run.fit(module, two(mode))
    assert (run.num_training_batches, len(module.shapes)) == (steps, steps)
    assert module.shapes[-1] == last


def test_training_on_several_under_a_limit() -> None:
    module, run = Several(), trainer(limit_train_batches=1, max_epochs=2)
    run.fit(module, two())
    assert (run.num_training_batches, run.global_step) == (1, 2)


def test_training_one_after_another() -> None:
    module, run = BoringModel(), trainer()
    run.fit(module, CombinedLoader([DataLoader(RandomDataset(32, 2)), DataLoader(RandomDataset(32, 3))], "sequential"))
    assert run.global_step == 5


def test_evaluating_one_after_another() -> None:
    module, run = Several(), trainer(limit_val_batches=1.0)
    run.validate(module, CombinedLoader([DataLoader(RandomDataset(32, 2)), DataLoader(RandomDataset(32, 1))], "sequential"))
    assert module.shapes == [(0, 0), (1, 0), (0, 1)]
    assert run.num_val_batches == [2, 1]


def test_evaluating_side_by_side() -> None:
    class Side(BoringModel):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert isinstance(batch, list)
            self.log("index", float(batch_idx), reduce_fx="max")

    run = trainer(limit_val_batches=1.0)
    given = CombinedLoader([DataLoader(RandomDataset(32, 2)), DataLoader(RandomDataset(32, 3))], "max_size_cycle")
    assert run.validate(Side(), given, verbose=False) == [{"index": 2.0}]


def test_overfitting_leaves_the_user_s_as_it_is() -> None:
    shuffled = DataLoader(RandomDataset(32, 4), shuffle=True)
    given = CombinedLoader({"a": shuffled})
    with pytest.warns(leyden.errors.LeydenWarning, match="overfit_batches"):
        trainer(overfit_batches=2).fit(Several(), given)
    assert given.flattened == [shuffled]
    assert given.iterables == {"a": shuffled}


@pytest.mark.parametrize("wrong", [None, 3, torch.ones(2, 32)], ids=["none", "number", "tensor"])
def test_what_is_no_loader_within(wrong: Any) -> None:
    with pytest.raises(InvalidLoader, match="loader 1 of the train loader that was passed is"):
        trainer().fit(Several(), CombinedLoader([DataLoader(RandomDataset(32, 2)), wrong]))
