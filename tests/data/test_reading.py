"""Reading a loader: its length, its last batch, and the difference between an end and a StopIteration that leaked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, SequentialSampler

from leyden.data.reading import is_loader, leaked, length_of, read, reads_map_style, set_epoch
from leyden.errors import EmptyLoader, LeakedStopIteration
from leyden.testing import RandomDataset, RandomIterableDataset, RandomIterableDatasetWithLen


class Counting:
    """An iterator over numbers that tells how many were fetched."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.fetched = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self.fetched >= self.count:
            raise StopIteration
        self.fetched += 1
        return self.fetched - 1


@pytest.mark.parametrize(
    ("loader", "length"),
    [
        (DataLoader(RandomDataset(2, 5), batch_size=2), 3),
        (DataLoader(RandomDataset(2, 5), batch_size=2, drop_last=True), 2),
        (DataLoader(RandomIterableDataset(2, 5)), None),
        (DataLoader(RandomIterableDatasetWithLen(2, 5)), 5),
        ([1, 2], 2),
        (iter([1]), None),
        (object(), None),
    ],
)
def test_lengths(loader: Any, length: int | None) -> None:
    assert length_of(loader) == length


def test_what_decides_what_is_read() -> None:
    assert reads_map_style(DataLoader(RandomDataset(2, 2)))
    assert not reads_map_style(DataLoader(RandomIterableDataset(2, 2)))
    assert not reads_map_style([1, 2])


def test_what_can_be_read() -> None:
    class ByIndex:
        def __getitem__(self, index: int) -> int:
            raise IndexError

    assert is_loader(DataLoader(RandomDataset(2, 2)))
    assert is_loader([1])
    assert is_loader(ByIndex())
    assert not is_loader(3)


# -- the last batch


@pytest.mark.parametrize(
    ("count", "start", "stop", "expected"),
    [
        (3, 0, 3, [(0, 0, False), (1, 1, False), (2, 2, True)]),
        (3, 0, 2, [(0, 0, False), (1, 1, True)]),
        (3, 1, 4, [(0, 1, False), (1, 2, False), (2, 3, True)]),
        (3, 2, 2, []),
    ],
)
def test_a_known_length(count: int, start: int, stop: int, expected: list[Any]) -> None:
    assert list(read([], Counting(count), start, stop, True, "mine")) == expected


@pytest.mark.parametrize(
    ("count", "stop", "expected"),
    [
        (3, None, [(0, 0, False), (1, 1, False), (2, 2, True)]),
        (3, 2, [(0, 0, False), (1, 1, True)]),
        (2, 5, [(0, 0, False), (1, 1, True)]),
    ],
)
def test_an_unknown_length(count: int, stop: int | None, expected: list[Any]) -> None:
    assert list(read([], Counting(count), 0, stop, False, "mine")) == expected


def test_nothing_is_fetched_ahead_where_the_length_is_known() -> None:
    source = Counting(5)
    for _, index, _ in read([], source, 0, 5, True, "mine"):
        assert source.fetched == index + 1


def test_one_is_fetched_ahead_where_it_is_not() -> None:
    source = Counting(3)
    for _, index, is_last in read([], source, 0, None, False, "mine"):
        assert source.fetched == index + (1 if is_last else 2)


def test_a_limit_is_not_read_beyond() -> None:
    for one_by_one in (True, False):
        source = Counting(5)
        list(read([], source, 0, 2, one_by_one, "mine"))
        assert source.fetched == 2


def test_a_loader_that_ends_early_has_no_last_batch() -> None:
    assert [is_last for _, _, is_last in read([], Counting(2), 0, 5, True, "mine")] == [False, False]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_loader_without_a_batch(one_by_one: bool) -> None:
    with pytest.raises(EmptyLoader, match="mine yielded no batch"):
        list(read([], Counting(0), 0, 3, one_by_one, "mine"))
    assert list(read([], Counting(0), 2, 3, one_by_one, "mine")) == []  # the rest of an epoch may be nothing


# -- leaks


class Leaking(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 1:
            raise StopIteration
        return torch.ones(1)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_leak_is_told_from_an_end(workers: int) -> None:
    loader = DataLoader(Leaking(), num_workers=workers)
    iterator = iter(loader)
    next(iterator)
    with pytest.raises(StopIteration) as caught:
        next(iterator)
    assert leaked(caught.value, loader)

    whole = DataLoader(RandomDataset(2, 1), num_workers=workers)
    iterator = iter(whole)
    next(iterator)
    with pytest.raises(StopIteration) as caught:
        next(iterator)
    assert not leaked(caught.value, whole)


@pytest.mark.parametrize("stop", [3, None])
def test_reading_refuses_a_leak(stop: int | None) -> None:
    loader = DataLoader(Leaking())
    with pytest.raises(LeakedStopIteration, match=r"of DataLoader raised StopIteration while batch 1 was read.*next\(iterator"):
        list(read(loader, iter(loader), 0, stop, stop is not None, "mine"))


# -- epochs


def test_samplers_are_told_the_epoch() -> None:
    sampler: Any = DistributedSampler(RandomDataset(2, 4), num_replicas=1, rank=0)
    set_epoch([DataLoader(RandomDataset(2, 4), sampler=sampler)], 3)
    assert sampler.epoch == 3

    class Batches:
        def __init__(self) -> None:
            self.sampler = sampler
            self.epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

        def __iter__(self) -> Iterator[list[int]]:
            return iter([[0]])

    own = Batches()
    loader = DataLoader(RandomDataset(2, 4), batch_sampler=own)  # type: ignore[arg-type]  # it serves as one
    set_epoch([loader, loader, [1, 2]], 5)  # the list has nobody who asks
    assert (own.epochs, sampler.epoch) == ([5], 5)


def test_a_sampler_is_told_once() -> None:
    class Counts(SequentialSampler):
        def __init__(self) -> None:
            super().__init__(range(4))
            self.told: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.told.append(epoch)

    sampler = Counts()
    set_epoch([DataLoader(RandomDataset(2, 4), sampler=sampler, batch_size=2)], 3)
    assert sampler.told == [3]
