"""Shares: every sample once over all processes, or the same number for each, whatever the sampler and the batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kit import Halves, Stream
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from leyden.checkpoint.random_state import random_state
from leyden.data.combined import CombinedLoader
from leyden.data.share import ALONE, Share
from leyden.data.source import Source
from leyden.errors import EmptyLoader, InvalidOption, Unsupported

Uneven = Literal["keep", "drop"]
sizes = st.integers(0, 40)
worlds = st.integers(1, 5)
unevens = st.sampled_from(["keep", "drop"])


class Numbers(Dataset[int]):
    """Each sample is its own index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


class Noise(Numbers):
    """Samples with something drawn from the process."""

    def __getitem__(self, index: int) -> Any:
        return index, float(torch.rand(()))


class OwnOrder(Sampler[int]):
    """A sampler that PyTorch does not know: from the last to the first."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count - 1, -1, -1))


class OwnBatches:
    """Batches of another size each: 1, 2, 3, 1, 2, 3, ..."""

    def __init__(self, count: int) -> None:
        self.batches = []
        while count:
            size = min(count, len(self.batches) % 3 + 1)
            self.batches.append(list(range(count - size, count)))
            count -= size

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def loader_of(kind: str, count: int, size: int | None = 1, drop_last: bool = False, **keywords: Any) -> DataLoader[Any]:
    data = Numbers(count)
    if kind == "own batches":
        return DataLoader(data, batch_sampler=OwnBatches(count), **keywords)  # type: ignore[arg-type]  # it serves as one
    if kind == "given batches":
        return DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), size or 1, drop_last), **keywords)
    sampler: Any = {
        "sequential": lambda: SequentialSampler(data),
        "random": lambda: RandomSampler(data),
        "own generator": lambda: RandomSampler(data, generator=torch.Generator().manual_seed(4)),
        "weighted": lambda: WeightedRandomSampler(torch.ones(count), count, replacement=False),
        "own order": lambda: OwnOrder(count),
    }[kind]()
    if size is None:
        return DataLoader(data, batch_size=None, sampler=sampler, **keywords)
    return DataLoader(data, batch_size=size, sampler=sampler, drop_last=drop_last, **keywords)


def source_of(loader: Any, share: Share = ALONE, training: bool = False, **keywords: Any) -> Source:
    return Source(loader, "mine", keywords.pop("limit", 1.0), "limit_batches", training=training, share=share, **keywords)


def read(source: Source, **keywords: Any) -> list[list[int]]:
    torch.manual_seed(7)  # processes that share an order have one random state
    return [torch.as_tensor(batch).reshape(-1).tolist() for batch, _, _ in source.read(**keywords)]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


kinds = st.sampled_from(["sequential", "random", "own generator", "weighted", "own order"])
batch_kinds = st.sampled_from(["own batches", "given batches"])


# -- the share itself


@given(sizes, worlds)
def test_keeping_gives_each_index_to_one(total: int, world: int) -> None:
    shares = [list(Share(rank, world, "keep").of(range(total))) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for rank, share in enumerate(shares):
        assert share == list(range(rank, total, world))


@given(sizes, worlds)
def test_dropping_gives_all_the_same_number(total: int, world: int) -> None:
    shares = [list(Share(rank, world, "drop").of(range(total))) for rank in range(world)]
    assert {len(share) for share in shares} == {total // world}
    assert sorted(index for share in shares for index in share) == list(range(total - total % world))


@given(sizes, worlds, unevens)
def test_a_size_is_the_number_of_indices(total: int, world: int, uneven: Uneven) -> None:
    for rank in range(world):
        share = Share(rank, world, uneven)
        assert share.size(total) == len(list(share.of(range(total))))


@given(st.integers(1, 40), worlds, unevens, st.integers(1, 10))
def test_all_ranks_have_drawn_the_same_number(total: int, world: int, uneven: Uneven, asked: int) -> None:
    left = set()
    for rank in range(world):
        order = iter(range(total))
        mine = Share(rank, world, uneven).of(order)
        if all(next(mine, None) is not None for _ in range(asked)) and asked * world <= total:
            left.add(len(list(order)))
    assert len(left) <= 1


def test_alone_everything_is_mine() -> None:
    assert list(ALONE.of("abc")) == ["a", "b", "c"]
    assert (ALONE.rank, ALONE.world, ALONE.size(7)) == (0, 1, 7)
    with pytest.raises(FrozenInstanceError):
        ALONE.rank = 1  # type: ignore[misc]  # what is tested


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, 0), "world=0"), ((2, 2), "rank=2 .* from 0 to 1"), ((-1, 2), "rank=-1"), ((0, 2, "pad"), "uneven='pad'")],
)
def test_a_share_that_cannot_be(arguments: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Share(*arguments)


# -- of a loader


@given(kinds, st.integers(1, 40), st.sampled_from([None, 1, 2, 3, 7]), worlds)
def test_evaluation_reads_each_sample_once_over_all_ranks(kind: str, count: int, size: int | None, world: int) -> None:
    whole = flat(read(source_of(loader_of(kind, count, size))))
    shares = []
    for rank in range(world):
        source = source_of(loader_of(kind, count, size), Share(rank, world, "keep"))
        batches = read(source)
        assert len(batches) == source.lengths[0] == source.stops[0]
        assert all(len(batch) == (size or 1) for batch in batches[:-1])
        shares.append(flat(batches))
    assert shares == [whole[rank::world] for rank in range(world)]


@given(kinds, st.integers(1, 40), st.sampled_from([None, 1, 2, 3, 7]), st.booleans(), worlds)
def test_training_gives_all_ranks_the_same_batches(kind: str, count: int, size: int | None, drop_last: bool, world: int) -> None:
    mine = count // world
    if mine == 0 or (drop_last and size is not None and mine < size):
        with pytest.raises(EmptyLoader, match="its length is 0"):
            source_of(loader_of(kind, count, size, drop_last), Share(0, world, "drop"), training=True)
        return
    whole = flat(read(source_of(loader_of(kind, count, None), training=True)))
    lengths = set()
    for rank in range(world):
        source = source_of(loader_of(kind, count, size, drop_last), Share(rank, world, "drop"), training=True)
        batches = read(source)
        used = mine - mine % size if drop_last and size is not None else mine
        assert flat(batches) == whole[: world * mine][rank::world][:used]
        assert len(batches) == source.stop
        lengths.add(tuple(map(len, batches)))
    assert len(lengths) == 1


@given(batch_kinds, st.integers(1, 40), worlds, unevens)
def test_batches_of_the_user_s_own_are_shared_out_whole(kind: str, count: int, world: int, uneven: Uneven) -> None:
    whole = read(source_of(loader_of(kind, count, 3)))
    if uneven == "drop":
        whole = whole[: len(whole) - len(whole) % world]
    for rank in range(world):
        loader = loader_of(kind, count, 3)
        if uneven == "drop" and not whole:
            with pytest.raises(EmptyLoader):
                source_of(loader, Share(rank, world, uneven))
            continue
        source = source_of(loader, Share(rank, world, uneven))
        assert read(source) == whole[rank::world]
        assert source.lengths == [len(whole[rank::world])]


@pytest.mark.parametrize("kind", ["random", "own order", "own batches"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("persistent", [True, False])
def test_workers_read_the_same_share(kind: str, training: bool, persistent: bool) -> None:
    sources = []
    for rank in range(2):
        loader = loader_of(kind, 24, 2, num_workers=1 + rank, persistent_workers=persistent)
        sources.append(source_of(loader, Share(rank, 2, "drop" if training else "keep"), training))
    for epoch in (0, 1):
        shares = [read(source, epoch=epoch) for source in sources]
        assert sorted(flat(shares[0]) + flat(shares[1])) == list(range(24))
        if epoch == 0:
            assert shares == [read(source_of(loader_of(kind, 24, 2), source.share, training)) for source in sources]
    for source in sources:
        source.close()  # as a run does: where the collector of garbage ends workers that live on, it waits 5 s for each


@given(kinds, st.integers(1, 30), st.sampled_from([1, 2, 3]), st.integers(1, 4), unevens)
def test_what_is_last_and_how_large_it_is(kind: str, count: int, size: int, world: int, uneven: Uneven) -> None:
    for rank in range(world):
        if uneven == "drop" and count < world:
            continue
        source = source_of(loader_of(kind, count, size), Share(rank, world, uneven))
        seen = list(source.read())
        assert [is_last for _, _, is_last in seen] == [False] * (len(seen) - 1) + [True] * bool(seen)
        counter = source.readers[0].counter()
        counted = [counter(index, is_last) for _, index, is_last in seen]
        assert [count and count.samples for count in counted] == [len(batch) for batch, _, _ in seen]


def test_a_rank_that_gets_nothing_reads_nothing() -> None:
    sources = [source_of(loader_of("sequential", 2), Share(rank, 4, "keep")) for rank in range(4)]
    assert [source.batches for source in sources] == [[1], [1], [0], [0]]
    assert [read(source) for source in sources] == [[[0]], [[1]], [], []]
    with pytest.raises(EmptyLoader, match=r"its length is 0 for each of 4 processes"):
        source_of(loader_of("sequential", 2), Share(0, 4, "drop"))
    with pytest.raises(EmptyLoader, match="its length is 0"):
        source_of(loader_of("sequential", 0), Share(3, 4, "keep"))


def test_a_limit_is_the_same_for_all_ranks() -> None:
    for limit, expected in [(3, [3, 3, 3]), (0.5, [2, 2, 2]), (5, [5, 4, 4]), (1.0, [5, 4, 4]), (0, [0, 0, 0])]:
        sources = [source_of(loader_of("sequential", 13), Share(rank, 3), limit=limit) for rank in range(3)]
        assert [source.stops[0] for source in sources] == expected
    for rank in range(3):  # none of them may raise alone, or the others wait for it
        with pytest.raises(InvalidOption, match=r"limit_batches=0\.1"):
            source_of(loader_of("sequential", 13), Share(rank, 3), limit=0.1)


def test_a_dataset_that_grew_is_measured_by_its_share() -> None:
    data = Numbers(6)
    source = source_of(DataLoader(data), Share(1, 2))
    assert source.stop == 3
    assert not source.measure()
    data.count = 9
    assert source.measure()
    assert source.stop == 4
    assert read(source) == [[1], [3], [5], [7]]


def test_loaders_side_by_side_are_shared_out_each() -> None:
    loaders = {"a": loader_of("sequential", 9), "b": loader_of("own order", 4)}
    source = source_of(loaders, Share(1, 2, "drop"), training=True)
    assert source.stop == 4
    batches = [(batch["a"].tolist(), batch["b"].tolist()) for batch, _, _ in source.read()]
    assert batches == [([1], [2]), ([3], [0]), ([5], [2]), ([7], [0])]
    combined = source_of(CombinedLoader(list(loaders.values()), "max_size"), Share(0, 2))
    assert combined.stops == [5]


def test_augmentation_differs_between_ranks() -> None:
    drawn = []
    for rank in range(2):
        torch.manual_seed(3)
        source = source_of(DataLoader(Noise(8), batch_size=2, num_workers=1), Share(rank, 2, "drop"), training=True)
        drawn += [value for batch, _, _ in source.read() for value in batch[1].tolist()]
    assert len(set(drawn)) == 8


def test_a_sampler_that_shares_out_by_itself_is_left_to_it() -> None:
    data = Numbers(8)
    sampler: Any = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)
    assert read(source_of(DataLoader(data, sampler=sampler), Share(1, 2))) == [[1], [3], [5], [7]]
    alone: Any = DistributedSampler(data, num_replicas=1, rank=0, shuffle=False)
    assert read(source_of(DataLoader(data, sampler=alone), Share(1, 2))) == [[1], [3], [5], [7]]


def test_a_loader_that_iterates_in_its_own_way_reads_its_share() -> None:
    source = source_of(Halves(Numbers(8), batch_size=2), Share(1, 2))
    assert source.stop == 4
    assert read(source) == [[1], [3], [5], [7]]


def test_the_loader_given_is_left_as_it_was() -> None:
    loader = loader_of("random", 9, 2)
    before = dict(loader.__dict__)
    source = source_of(loader, Share(1, 2))
    read(source)
    source.measure()
    assert loader.__dict__ == before
    assert len(loader) == 5


def test_alone_a_share_draws_and_changes_nothing() -> None:
    torch.manual_seed(5)
    loader = DataLoader(Noise(9), batch_size=2, shuffle=True)
    plain = list(loader)
    after = random_state()["torch"]
    torch.manual_seed(5)
    assert str([batch for batch, _, _ in source_of(loader).read()]) == str(plain)
    assert torch.equal(random_state()["torch"], after)


# -- what cannot be shared


@pytest.mark.parametrize(
    ("loader", "what"),
    [
        (DataLoader(Stream(torch.arange(4))), r"DataLoader reads an iterable dataset \(Stream\)"),
        (range(4), "range is no DataLoader"),
    ],
)
def test_what_only_its_own_code_can_share_is_refused(loader: Any, what: str) -> None:
    with pytest.raises(Unsupported, match=rf"{what}, and 2 processes share .*map-style.*use_distributed_sampler=False"):
        source_of(loader, Share(0, 2))
    assert source_of(loader).readers


@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 4), unevens, st.data())
def test_the_share_goes_on_where_it_was_cut(count: int, size: int, world: int, uneven: Uneven, data: Any) -> None:
    training = uneven == "drop"
    for rank in range(world):
        if training and count < world:
            continue
        kind = data.draw(st.sampled_from(["random", "own order", "own generator", "own batches"]))
        if kind == "own batches" and training and len(OwnBatches(count)) < world:
            continue
        torch.manual_seed(data.draw(st.integers(0, 9)))
        source = source_of(loader_of(kind, count, size), Share(rank, world, uneven), training)
        whole, states = [], []
        for batch, index, _ in source.read(epoch=2):
            whole.append(batch.tolist())
            states += [(index, source.state_dict(0, index)), (index + 1, source.state_dict(0, index + 1))]
        for taken, state in states:
            torch.manual_seed(99)
            other = source_of(loader_of(kind, count, size), Share(rank, world, uneven), training)
            other.restore(state)
            assert [batch.tolist() for batch, _, _ in other.read(epoch=2, start=taken)] == whole[taken:]
