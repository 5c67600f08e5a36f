"""What a batch or a loader tells of its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from leyden.errors import AmbiguousBatchSize, EmptyLoader, MisconfigurationException, PossibleUserWarning
from leyden.strategies import SingleDeviceStrategy
from leyden.testing import RandomDataset, RandomIterableDataset, RandomIterableDatasetWithLen
from leyden.utilities.data import extract_batch_size, has_iterable_dataset, has_len_all_ranks, sized_len


@dataclass
class Pair:
    first: Any
    second: Any


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(3, 2), 3),
        (torch.tensor(1.0), 1),
        ({"a": torch.zeros(4), "b": "text"}, 4),
        ([["x"], (torch.zeros(5), 7)], 5),
        (Pair("x", torch.zeros(2, 2)), 2),
        ((each for each in [torch.zeros(6)]), 6),
    ],
)
def test_the_first_tensor_tells(batch: Any, size: int) -> None:
    assert extract_batch_size(batch) == size


@pytest.mark.parametrize("batch", ["text", 5, [], {}, None, ["a", "b"], Pair])
def test_a_batch_that_tells_nothing(batch: Any) -> None:
    with pytest.raises(AmbiguousBatchSize, match="does not tell its size"):
        extract_batch_size(batch)
    assert issubclass(AmbiguousBatchSize, MisconfigurationException)


def test_tensors_that_differ() -> None:
    with pytest.warns(PossibleUserWarning, match="first dimensions 2 and 3; 2 is taken"):
        assert extract_batch_size([torch.zeros(2), torch.zeros(3)]) == 2


class Two(SingleDeviceStrategy):
    """One of two processes, of which the other says ``other``."""

    def __init__(self, **other: bool) -> None:
        super().__init__("cpu")
        self.other = other

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision and self.other["all"] if all else decision or self.other["any"]


def test_lengths() -> None:
    alone, sized = SingleDeviceStrategy("cpu"), DataLoader(RandomDataset(2, 3))
    assert (sized_len(sized), sized_len(iter([])), has_iterable_dataset(sized)) == (3, None, False)
    assert has_len_all_ranks(sized, alone)
    endless = DataLoader(RandomIterableDataset(2, 3))
    assert has_iterable_dataset(endless)
    assert not has_len_all_ranks(endless, alone)
    with pytest.warns(PossibleUserWarning, match="IterableDataset of DataLoader tells a length"):
        assert has_len_all_ranks(DataLoader(RandomIterableDatasetWithLen(2, 3)), alone)
    with pytest.warns(PossibleUserWarning, match="length is 0 on every process"):
        assert has_len_all_ranks(DataLoader([]), alone)  # type: ignore[arg-type]  # an empty list has a length


def test_lengths_of_several_processes() -> None:
    sized = DataLoader(RandomDataset(2, 3))
    assert not has_len_all_ranks(sized, Two(all=False, any=False))
    with pytest.raises(EmptyLoader, match="no batch on one process, and 3 here"):
        has_len_all_ranks(sized, Two(all=True, any=True))
    assert has_len_all_ranks(sized, Two(all=True, any=True), allow_zero_length_dataloader_with_multiple_devices=True)
