"""A cut epoch goes on at the right sample with another batch size; other changes of its loader are named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler, Sampler, SequentialSampler, Subset, SubsetRandomSampler

from leyden.data.combined import CombinedLoader
from leyden.data.settings import Resized
from leyden.data.share import Share
from leyden.data.source import Source
from leyden.errors import CheckpointMismatch


class Own(Sampler[int]):
    """An order of its own, the same in each pass."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.count, generator=torch.Generator().manual_seed(self.count)).tolist())


def source(loader: Any, limit: int | float = 1.0, **more: Any) -> Source:
    return Source(loader, "the train loader", limit, "limit_train_batches", training=True, **more)


def loader(size: int, count: int = 24, kind: str = "shuffle", **more: Any) -> DataLoader[Any]:
    data: Any = list(range(count))
    how: dict[str, Any] = {"sampler": Own(count)} if kind == "own" else {"shuffle": kind == "shuffle"}
    return DataLoader(data, size, **how, **more)


def chosen(indices: Any) -> DataLoader[Any]:
    data: Any = list(range(24))
    return DataLoader(Subset(Subset(data, list(range(24))), indices), 2)


def drawn_from(indices: Any) -> DataLoader[Any]:
    data: Any = list(range(24))
    return DataLoader(data, 2, sampler=SubsetRandomSampler(indices))


def taken(of: Source, start: int, most: int | None = None) -> list[list[int]]:
    batches, out = of.read(0, start), []
    for batch, index, is_last in batches:
        assert index == start + len(out)
        out.append(batch.tolist())
        if most is not None and len(out) == most:
            return out
        if is_last:
            break
    return out


def flat(batches: list[list[int]]) -> list[int]:
    return [sample for batch in batches for sample in batch]


@settings(max_examples=150)
@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=3),
    st.sampled_from(["shuffle", "order", "own"]),
    st.booleans(),
    st.integers(1, 9),
)
def test_any_change_of_the_batch_size(count: int, cuts: list[tuple[int, int]], kind: str, drops: bool, last: int) -> None:
    torch.manual_seed(count)
    whole = flat(taken(source(loader(1, count, kind)), 0))
    torch.manual_seed(count)
    got: list[list[int]] = []
    state: Any = None
    for size, most in cuts:
        left = count - len(flat(got))
        if left // size <= most:
            continue
        part = source(loader(size, count, kind))
        part.restore(state)
        more = taken(part, len(got), most)
        assert all(len(batch) == size for batch in more)
        got += more
        state = part.state_dict(0, len(got))
        torch.manual_seed(99)  # another process
    if drops and count - len(flat(got)) < last:
        return
    end = source(loader(last, count, kind, drop_last=drops))
    end.restore(state)
    rest = taken(end, len(got))
    assert end.stop == len(got) + len(rest)
    assert all(len(batch) == last for batch in rest[:-1])
    found = flat(got + rest)
    assert found == whole[: len(found)]
    assert len(whole) - len(found) < (last if drops else 1)
    assert end.measure(begins=True) or end.length == len(loader(last, count, kind, drop_last=drops))
    assert end.length == len(loader(last, count, kind, drop_last=drops))


@pytest.mark.parametrize("workers", [0, 1])
def test_with_workers_and_what_they_fetched_ahead(workers: int) -> None:
    for kind in ("shuffle", "own"):
        more: dict[str, Any] = {"num_workers": workers}
        torch.manual_seed(3)
        before = source(loader(2, kind=kind, **more))
        done = taken(before, 0, 3)
        state = before.state_dict(0, 3)
        before.close()
        after = source(loader(5, kind=kind, **more))
        after.restore(state)
        rest = taken(after, 3)
        after.close()
        assert sorted(flat(done + rest)) == list(range(24))
        assert [len(batch) for batch in rest] == [5, 5, 5, 3]


def test_each_process_goes_on_with_its_share() -> None:
    found = []
    for rank in range(2):
        torch.manual_seed(3)
        share = Share(rank, 2, "drop")
        before = source(loader(2), share=share)
        done = taken(before, 0, 2)
        after = source(loader(3), share=share)
        after.restore(before.state_dict(0, 2))
        found += flat(done + taken(after, 2))
    assert sorted(found) == list(range(24))


def test_of_how_many_samples_each_batch_is() -> None:
    before = source(loader(2))
    taken(before, 0, 3)
    after = source(loader(5))
    after.restore(before.state_dict(0, 3))
    taken(after, 3, 1)
    count = after.readers[0].counter()
    found = [count(index, index == 6) for index in range(3, 7)]
    assert [each.samples for each in found if each is not None] == [5, 5, 5, 3]


def test_under_a_limit() -> None:
    before = source(loader(2))
    taken(before, 0, 3)
    after = source(loader(5), 5)
    after.restore(before.state_dict(0, 3))
    assert len(taken(after, 3)) == 2


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(24))


@pytest.mark.parametrize(
    ("then", "now", "says"),
    [
        (loader(2), loader(2, 30), r"after 3 batches \(6 samples\) of the train loader, .* samples=24 then, 30 now"),
        (loader(2), loader(2, 20), "samples=24 then, 20 now"),
        (loader(2), loader(2, kind="order"), "sampler='RandomSampler' then, 'SequentialSampler' now"),
        (loader(2), loader(2, generator=torch.Generator()), "generator=None then, 'its own' now"),
        (loader(2, generator=torch.Generator()), loader(2), "generator='its own' then, None now"),
        (chosen(range(20)), chosen(range(4, 24)), "subset='checksum.* then, 'checksum.* now"),
        (drawn_from(range(20)), drawn_from(range(4, 24)), "subset='checksum.* then, 'checksum.* now"),
        (loader(2), loader(4, kind="own"), "batch_size=2 then, 4 now and sampler='RandomSampler' then, 'Own' now"),
        (loader(2), DataLoader(Stream(), 2), "dataset=None then, 'Stream' now"),
        (DataLoader(Stream(), 2), DataLoader(Stream(), 4), r"after 3 batches \(6 samples\).*batch_size=2 then, 4 now"),
        (loader(2), {"a": loader(2), "b": loader(2)}, r"1 loader then, 2 loaders \(max_size_cycle\) now"),
        ([loader(2)], loader(2), r"1 loaders \(max_size_cycle\) then, 1 loader now"),
        ([loader(2)], [loader(3)], "batch_size=2 then, 3 now"),
        (
            CombinedLoader([loader(2)], "max_size"),
            CombinedLoader([loader(2)], "min_size"),
            r"\(max_size\) then, .*\(min_size\) now",
        ),
        (
            DataLoader(list(range(24)), 2, sampler=RandomSampler(range(24), num_samples=20)),  # type: ignore[arg-type]
            loader(2),
            "drawn=20 then, None now",
        ),
    ],
)
def test_what_cannot_go_on_is_named(then: Any, now: Any, says: str) -> None:
    before = source(then)
    batches = before.read(0)
    for _ in range(3):
        next(batches)
    state = before.state_dict(0, 3)
    after = source(now)
    after.restore(state)
    with pytest.raises(CheckpointMismatch, match=says) as caught:
        after.read(0, 3)
    assert not isinstance(caught.value, KeyError)
    fresh = source(now)
    fresh.restore(state)
    assert next(fresh.read(1)) is not None  # the next epoch can have what loader it likes


def test_before_the_first_batch_of_an_epoch_any_loader_will_do() -> None:
    before = source(loader(2))
    before.read(0)
    state = before.state_dict(0, 0)
    for now in ({"a": loader(3), "b": loader(2)}, loader(3, 30, "order")):
        after = source(now)
        after.restore(state)
        assert next(after.read(0)) is not None


def test_batches_of_other_sizes_come_first() -> None:
    order = Resized(SequentialSampler(range(10)), 3, False, ((2, 1, 1), (1, 2, 1)))
    assert list(order) == [[0], [1], [2, 3], [4, 5, 6], [7, 8, 9]]
    assert len(order) == 5


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_of_other_processes_come_first(drop_last: bool) -> None:
    stretches = ((2, 2, 3), (1, 1, 2))  # 12 samples of three processes, then 2 of two
    seen: list[int] = []
    for rank in range(2):
        order = Resized(SequentialSampler(range(21)), 3, drop_last, stretches, Share(rank, 2, "drop"))
        batches = list(order)
        assert batches[:3] == [[rank, 3 + rank], [6 + rank, 9 + rank], [12 + rank]], "as that process had them"
        assert len(order) == len(batches)
        seen += [sample for batch in batches[3:] for sample in batch]
    assert sorted(seen) == list(range(14, 20)), "an end that does not go around is left out"
