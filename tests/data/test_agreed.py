"""Processes that share one order agree on it, whatever each has drawn before and meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from processes_of_threads import ProcessesOfThreads, run_together
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler

from leyden.checkpoint.random_state import random_state
from leyden.data.agreed import Stream, advanced, host_state
from leyden.data.share import Share
from leyden.data.source import Source

COUNT = 12
DATA = TensorDataset(torch.arange(COUNT))


class Lazy(Sampler[int]):
    """Draws each index when it is asked for."""

    def __init__(self, draw: Callable[[int], int]) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[int]:
        left = list(range(COUNT))
        while left:
            yield left.pop(self.draw(len(left)))


class OwnBatches(BatchSampler):
    """Batches of one and two, in a random order."""

    def __init__(self) -> None:
        pass

    def __len__(self) -> int:
        return COUNT * 2 // 3

    def __iter__(self) -> Iterator[list[int]]:
        order = [int(number) for number in np.random.permutation(COUNT)]
        return iter([order[at : at + size] for start in range(0, COUNT, 3) for at, size in ((start, 1), (start + 1, 2))])


def with_generator(rank: int) -> DataLoader[Any]:
    return DataLoader(DATA, 2, shuffle=True, generator=torch.Generator().manual_seed(rank))


LOADERS: dict[str, Callable[[int], Any]] = {
    "shuffle": lambda rank: DataLoader(DATA, 2, shuffle=True),
    "a generator": with_generator,
    "weighted": lambda rank: DataLoader(DATA, 2, sampler=WeightedRandomSampler([1.0] * COUNT, COUNT, replacement=False)),
    "lazy, torch": lambda rank: DataLoader(DATA, 2, sampler=Lazy(lambda left: int(torch.randint(left, ())))),
    "lazy, python": lambda rank: DataLoader(DATA, 2, sampler=Lazy(random.randrange)),
    "own batches": lambda rank: DataLoader(DATA, batch_sampler=OwnBatches()),
}


def epochs_on(make: Callable[[int], Any], seeds: Callable[[int], int], training: bool) -> list[Any]:
    """For each rank what it read in two epochs, and what it exchanged."""

    def body(processes: ProcessesOfThreads) -> Any:
        random.seed(seeds(processes.rank))
        np.random.seed(seeds(processes.rank))
        torch.manual_seed(seeds(processes.rank))
        share = Share(processes.rank, processes.world, "drop" if training else "keep", processes=processes)
        source = Source(make(processes.rank), "it", 1.0, "limit", training=training, share=share)
        read: list[list[int]] = []
        processes.exchanges.clear()
        for epoch in range(2):
            read.append([])
            for batch, _, _ in source.read(epoch):
                torch.rand(processes.rank)  # as a step may
                read[-1] += batch[0].tolist()
        return read, processes.words, torch.rand(())

    return run_together(2, body)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", LOADERS)
def test_each_sample_is_read_once_whatever_the_random_states(kind: str, training: bool) -> None:
    (first, words, _), (second, _, _) = epochs_on(LOADERS[kind], lambda rank: rank, training)
    for one, other in zip(first, second, strict=True):
        assert sorted(one + other) == list(range(COUNT))
    assert first[0] != first[1], "another order in each epoch"
    assert words == ["broadcast", "broadcast"], "one exchange an epoch"


def test_a_loader_in_order_exchanges_nothing() -> None:
    outcomes = epochs_on(lambda rank: DataLoader(DATA, 2), lambda rank: rank, True)
    assert [words for _, words, _ in outcomes] == [[], []]


def test_seeded_alike_they_go_through_the_order_of_one_process() -> None:
    torch.manual_seed(5)
    loader = DataLoader(DATA, 4, shuffle=True)
    whole = [[int(number) for (batch,) in loader for number in batch] for _ in range(2)]
    after = torch.rand(())
    outcomes = epochs_on(lambda rank: DataLoader(DATA, 2, shuffle=True), lambda rank: 5, True)
    for rank, (read, _, _) in enumerate(outcomes):
        # rank 1 draws in its steps, and yet follows the first, which draws nothing
        assert read == [epoch[rank::2] for epoch in whole]
    assert torch.equal(outcomes[0][2], after), "and the first process's own numbers go on as one's"


def test_a_cut_epoch_goes_on_in_the_agreed_order() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        def source() -> Source:
            share = Share(processes.rank, 2, "drop", processes=processes)
            return Source(DataLoader(DATA, 1, shuffle=True), "it", 1.0, "limit", training=True, share=share)

        torch.manual_seed(processes.rank)
        whole = [int(batch[0]) for batch, _, _ in source().read(3)]
        torch.manual_seed(processes.rank)
        cut = source()
        reading = cut.read(3)
        begun = [int(next(reading)[0][0]) for _ in range(2)]
        state = cut.state_dict(0, 2)
        torch.manual_seed(77 + processes.rank)
        resumed = source()
        resumed.restore(state)
        return whole, begun + [int(batch[0]) for batch, _, _ in resumed.read(3, 2)]

    for whole, pieces in run_together(2, body):
        assert pieces == whole


def test_loaders_side_by_side_agree_by_one_exchange() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        torch.manual_seed(processes.rank)
        given = {"a": DataLoader(DATA, 1, shuffle=True), "b": DataLoader(TensorDataset(torch.arange(4)), 1, shuffle=True)}
        share = Share(processes.rank, 2, "drop", processes=processes)
        source = Source(given, "it", 1.0, "limit", training=True, share=share)
        processes.exchanges.clear()
        batches = [(int(batch["a"][0]), int(batch["b"][0])) for batch, _, _ in source.read()]
        return batches, processes.words

    (first, words), (second, _) = run_together(2, body)
    assert sorted(a for a, _ in first + second) == list(range(COUNT))
    for start in range(0, 6, 2):  # the shorter one, three times, each in an order of its own
        assert sorted(b for _, b in first[start : start + 2] + second[start : start + 2]) == list(range(4))
    assert words == ["broadcast"]


def test_a_rank_without_a_batch_takes_part() -> None:
    def body(processes: ProcessesOfThreads) -> Any:
        share = Share(processes.rank, 3, "keep", processes=processes)
        loader = DataLoader(TensorDataset(torch.arange(2)), 1, sampler=RandomSampler(range(2)))
        source = Source(loader, "it", 1.0, "limit", training=False, share=share)
        return [int(batch[0]) for batch, _, _ in source.read()], source.batches_of_each

    outcomes = run_together(3, body)
    assert sorted(number for read, _ in outcomes for number in read) == [0, 1]
    assert [batches for _, batches in outcomes] == [[1], [1], [1]], "decisions are made by the same number"


def test_a_stream_puts_back_what_is_not_its_own() -> None:
    torch.manual_seed(1)
    state = host_state()
    expected = torch.rand(2)
    torch.manual_seed(2)
    stream = Stream(state)
    assert torch.equal(torch.stack([stream.draw(lambda: torch.rand(())) for _ in range(2)]), expected)
    torch.manual_seed(2)
    torch.empty((), dtype=torch.int64).random_()
    own = random_state()["torch"]
    torch.manual_seed(2)
    stream = Stream(state)
    stream.draw(lambda: random.random())
    assert torch.equal(random_state()["torch"], own), "one number is drawn of its own, so that the next pass has another order"
    assert not torch.equal(advanced(state, 1)["torch"], state["torch"])
    assert advanced(state, 0) == state
