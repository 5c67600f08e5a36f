"""A source: its loaders, their limit, and going on from any batch with what was left, whatever is read and however."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, TensorDataset, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import leyden
from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.data.combined import CombinedLoader
from leyden.data.generators import generators_in, put_states, states_of
from leyden.data.source import Source
from leyden.errors import EmptyLoader, InvalidLoader, LeydenWarning
from leyden.testing import BoringModel

EPOCH = 3


class Numbers(Dataset[Tensor]):
    """Each sample holds its index, and something drawn where ``noise`` is on."""

    def __init__(self, count: int, noise: bool = False) -> None:
        self.count, self.noise = count, noise
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return torch.tensor([float(index), float(torch.rand(())) if self.noise else 0.0])


class Stream(IterableDataset[Tensor]):
    """Numbers in an order that is drawn when reading begins; it does not tell its length."""

    def __init__(self, count: int, noise: bool = False) -> None:
        self.count, self.noise = count, noise

    def __iter__(self) -> Iterator[Tensor]:
        for index in torch.randperm(self.count).tolist():
            yield torch.tensor([float(index), float(torch.rand(())) if self.noise else 0.0])


class SizedStream(Stream):
    def __len__(self) -> int:
        return self.count


class StatefulStream(IterableDataset[Tensor]):
    """Goes on where its state says; the noise is drawn from the process."""

    def __init__(self, count: int, noise: bool = False) -> None:
        self.count, self.noise, self.next = count, noise, 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.next < self.count:
            self.next += 1
            yield torch.tensor([self.next - 1.0, float(torch.rand(())) if self.noise else 0.0])
        self.next = 0

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


class OwnGenerator(Sampler[int]):
    """Draws each index when it is asked for it, from a generator of its own."""

    def __init__(self, count: int) -> None:
        self.count, self.generator = count, torch.Generator().manual_seed(5)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return (int(torch.randint(self.count, (), generator=self.generator)) for _ in range(self.count))


class StatefulSampler(Sampler[int]):
    """A stride through the data that its state tells."""

    def __init__(self, count: int) -> None:
        self.count, self.given = count, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        while self.given < self.count:
            self.given += 1
            yield (self.given - 1) * 7 % self.count
        self.given = 0

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


class Unsized(RandomSampler):
    """Does not tell its length, so that a batch is fetched ahead."""

    def __len__(self) -> int:
        raise TypeError


class Batches:
    """Batches of different sizes, shuffled at the beginning."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count).tolist()
        while order:
            size = len(order) % 3 + 1
            yield order[:size]
            order = order[size:]


def made(kind: str, count: int, size: int, noise: bool, workers: int) -> Any:
    """A loader of ``kind``, as a new process makes it."""
    data, keywords = Numbers(count, noise), {"batch_size": size, "num_workers": workers}
    if kind == "persistent":
        return DataLoader(data, shuffle=True, persistent_workers=workers > 0, **keywords)
    if kind == "stream":
        return DataLoader(Stream(count, noise), **keywords)
    if kind == "sized stream":
        return DataLoader(SizedStream(count, noise), **keywords)
    if kind == "stateful stream":
        return DataLoader(StatefulStream(count, noise), **keywords)
    if kind == "stateful loader":
        return StatefulDataLoader(data, shuffle=True, **keywords)
    if kind == "own batches":
        return DataLoader(data, batch_sampler=Batches(count), num_workers=workers)  # type: ignore[arg-type]  # it serves as one
    if kind == "unbatched":
        return DataLoader(data, shuffle=True, batch_size=None, num_workers=workers)
    if kind == "drop last":
        return DataLoader(data, shuffle=True, drop_last=True, **keywords)
    if kind == "own generator":
        return DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(2), **keywords)
    sampler: Any = {
        "in order": lambda: None,
        "shuffled": lambda: RandomSampler(data),
        "weighted": lambda: WeightedRandomSampler(torch.arange(1.0, count + 1), count),
        "own sampler": lambda: OwnGenerator(count),
        "stateful sampler": lambda: StatefulSampler(count),
        "unsized": lambda: Unsized(data),
    }[kind]()
    return DataLoader(data, sampler=sampler, **keywords)


SIMPLE = ["in order", "shuffled", "weighted", "own sampler", "own batches", "unbatched", "own generator", "drop last"]
STATEFUL = ["stateful sampler", "stateful loader", "stateful stream"]
STREAMS = ["stream", "sized stream", "unsized"]
KINDS = [*SIMPLE, *STATEFUL, *STREAMS]
AHEAD = ["stream", "unsized", "own batches", "stateful stream"]  # no length: a batch is fetched ahead


def source_of(loader: Any, training: bool, **keywords: Any) -> Source:
    return Source(loader, "mine", keywords.pop("limit", 1.0), "limit_batches", training=training, **keywords)


class Cut:
    """What a checkpoint of a run holds that reads a source."""

    def __init__(self, source: Source, given: Any, taken: int, reader: int = 0) -> None:
        self.taken, self.reader = taken, reader
        self.state = copy.deepcopy(source.state_dict(reader, taken))
        self.random, self.generators = random_state(), states_of(generators_in(given))

    def rest(self, source: Source, given: Any) -> list[Any]:
        """What a new process reads that goes on from here."""
        torch.manual_seed(77)
        put_states(generators_in(given), self.generators)
        set_random_state(self.random)
        source.restore(self.state)
        return list(read_on(source, self.taken, self.reader))


def read_on(source: Source, start: int = 0, reader: int = 0, in_flight: bool = False) -> Iterator[Any]:
    """The batches of a run whose steps draw too, one after another."""
    for batch, _, _ in source.read(EPOCH, start, reader=reader, in_flight=in_flight):
        yield batch
        torch.rand(3)


def same(first: list[Any], second: list[Any]) -> bool:
    return str(first) == str(second)


def cuts_of(make: Any, training: bool, in_hand: bool, in_flight: bool, seed: int) -> tuple[list[Any], list[Cut]]:
    """All batches of an epoch, and a cut at each: after the batch was used, or with it in hand."""
    torch.manual_seed(seed)
    loader = make()
    source = source_of(loader, training)
    whole: list[Any] = []
    cuts = []
    batches = source.read(EPOCH, in_flight=in_flight)
    for batch, index, _ in batches:
        whole.append(batch)
        if in_hand:
            cuts.append(Cut(source, loader, index))
        torch.rand(3)
        if not in_hand:
            cuts.append(Cut(source, loader, index + 1))
    return whole, cuts


def check(make: Any, training: bool, in_hand: bool, in_flight: bool, seed: int) -> None:
    whole, cuts = cuts_of(make, training, in_hand, in_flight, seed)
    for cut in cuts:
        loader = make()
        rest = cut.rest(source_of(loader, training), loader)
        assert same(rest, whole[cut.taken :]), f"cut at {cut.taken}: {rest} instead of {whole[cut.taken :]}"


# -- going on anywhere


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 14), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_what_was_left_is_read_after_a_cut(kind: str, count: int, size: int, training: bool, seed: int) -> None:
    size = min(size, count)
    noise = training or kind not in AHEAD  # evaluation notes what was drawn for a batch fetched ahead only where it is asked to
    check(lambda: made(kind, count, size, noise, 0), training, in_hand=False, in_flight=False, seed=seed)


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 14), st.integers(1, 4), st.booleans(), st.integers(0, 99))
def test_a_batch_in_hand_is_read_again(kind: str, count: int, size: int, training: bool, seed: int) -> None:
    size = min(size, count)
    check(lambda: made(kind, count, size, False, 0), training, in_hand=True, in_flight=False, seed=seed)


@settings(max_examples=60)
@given(st.sampled_from(KINDS), st.integers(1, 14), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 99))
def test_what_is_noted_is_drawn_again(kind: str, count: int, size: int, training: bool, in_hand: bool, seed: int) -> None:
    size = min(size, count)
    check(lambda: made(kind, count, size, True, 0), training, in_hand, in_flight=True, seed=seed)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("in_hand", [True, False])
@pytest.mark.parametrize("kind", ["shuffled", "persistent", "own sampler", "own batches", "stream", "stateful loader"])
def test_with_workers_too(kind: str, training: bool, in_hand: bool) -> None:
    noise = kind != "stream" or not training
    whole, cuts = cuts_of(lambda: made(kind, 9, 2, noise, 2), training, in_hand, False, seed=3)
    for cut in (cuts[1], cuts[-1]):
        loader = made(kind, 9, 2, noise, 2)
        assert same(cut.rest(source_of(loader, training), loader), whole[cut.taken :])


SIDE_BY_SIDE = [
    ("shuffled", "shuffled"),
    ("shuffled", "stream"),
    ("own sampler", "own batches"),
    ("unsized", "stateful sampler"),
    ("weighted", "own generator"),
]


@pytest.mark.parametrize("mode", ["max_size_cycle", "max_size", "min_size", "sequential"])
@settings(max_examples=12)
@given(
    st.sampled_from(SIDE_BY_SIDE),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 99),
)
def test_several_loaders(
    mode: Any, kinds: Any, first: int, second: int, training: bool, in_hand: bool, in_flight: bool, seed: int
) -> None:
    def make() -> CombinedLoader:
        return CombinedLoader({"a": made(kinds[0], first, 1, in_flight, 0), "b": made(kinds[1], second, 1, in_flight, 0)}, mode)

    if not training and mode == "sequential":
        return  # they are read one after another
    in_flight = in_flight or (in_hand and not training)
    check(make, training, in_hand, in_flight, seed)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_evaluation_goes_on_in_any_of_its_loaders(first: int, second: int, seed: int) -> None:
    def make() -> list[Any]:
        return [made("shuffled", first, 1, True, 0), made("own sampler", second, 1, True, 0)]

    torch.manual_seed(seed)
    loaders = make()
    source = source_of(loaders, False)
    whole, cuts = [], []
    for reader in range(2):
        whole.append([])
        for taken, batch in enumerate(read_on(source, reader=reader)):
            whole[reader].append(batch)
            cuts.append(Cut(source, loaders, taken, reader))
    for cut in cuts:
        loaders = make()
        other = source_of(loaders, False)
        rest = cut.rest(other, loaders)
        expected = whole[cut.reader][cut.taken :]
        assert [batch[:, 0].tolist() for batch in rest] == [batch[:, 0].tolist() for batch in expected]
        if cut.reader == 0:
            assert len(list(read_on(other, reader=1))) == len(whole[1])


@pytest.mark.parametrize("training", [True, False])
def test_what_was_used_is_not_read_again(training: bool) -> None:
    torch.manual_seed(1)
    whole, cuts = cuts_of(lambda: made("shuffled", 9, 2, False, 0), training, False, False, seed=1)
    loader = made("shuffled", 9, 2, False, 0)
    assert same(cuts[2].rest(source_of(loader, training), loader), whole[3:])
    assert len(loader.dataset.read) == 3


@pytest.mark.parametrize("kind", ["shuffled", "own sampler", "own batches", "stateful sampler", "stream", "stateful stream"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_closed_source_still_knows_where_it_stood(kind: str, workers: int) -> None:
    source = source_of(made(kind, 9, 2, False, workers), True)
    batches = source.read(EPOCH)
    next(batches)
    next(batches)
    before = str(source.state_dict(0, 2)), str(source.state_dict(0, 1))
    del batches  # as a loop does that ends inside an epoch
    source.close()
    assert (str(source.state_dict(0, 2)), str(source.state_dict(0, 1))) == before


def test_a_source_that_was_not_read_has_no_state() -> None:
    source = source_of(made("shuffled", 4, 1, False, 0), True)
    assert source.state_dict(0, 0) is None
    source.restore({"epoch": 2, "leaves": [{}]})
    assert source.state_dict(0, 0) == {"epoch": 2, "leaves": [{}]}  # nothing was read on


def test_a_state_belongs_to_the_epoch_that_was_read() -> None:
    torch.manual_seed(4)
    source = source_of(made("shuffled", 6, 1, False, 0), True)
    list(source.read(0))
    state, random = source.state_dict(0, 0), random_state()  # the next epoch has begun, and nothing was read of it
    following = [batch for batch, _, _ in source.read(1)]
    other = source_of(made("shuffled", 6, 1, False, 0), True)
    other.restore(state)
    set_random_state(random)
    assert same([batch for batch, _, _ in other.read(1)], following)


@pytest.mark.parametrize("kind", ["shuffled", "own sampler"])
def test_a_file_of_0_1_0_goes_on(kind: str) -> None:
    whole, cuts = cuts_of(lambda: made(kind, 9, 2, True, 0), True, False, False, seed=3)
    state: Any = cuts[1].state
    leaf = state["leaves"][0]
    cuts[1].state = {
        "epoch": EPOCH,
        "leaves": [{"opened": leaf["opened"], "taken": 2, "indices": leaf.get("indices", {})}],
        "ahead": None,
    }
    loader = made(kind, 9, 2, True, 0)
    assert same(cuts[1].rest(source_of(loader, True), loader), whole[2:])


def test_a_batch_that_0_1_0_had_fetched_ahead_is_drawn_again() -> None:
    whole, cuts = cuts_of(lambda: made("stream", 9, 2, True, 0), True, False, False, seed=3)
    state: Any = cuts[1].state
    assert state["ahead"]["random"] is not None
    state["ahead"].update(taken=[0], finished=[])
    loader = made("stream", 9, 2, True, 0)
    assert same(cuts[1].rest(source_of(loader, True), loader), whole[2:])


# -- indices


@settings(max_examples=40)
@given(
    st.sampled_from(
        ["in order", "shuffled", "weighted", "own sampler", "own batches", "unbatched", "stateful sampler", "unsized"]
    ),
    st.integers(1, 14),
    st.integers(1, 4),
    st.booleans(),
)
def test_the_indices_are_those_of_the_batch(kind: str, count: int, size: int, training: bool) -> None:
    source = source_of(made(kind, count, size, False, 0), training, indices=True)
    for batch, _, _ in source.read():
        assert source.batch_indices == batch.reshape(-1, 2)[:, 0].long().tolist()


@pytest.mark.parametrize("kind", ["shuffled", "persistent", "own sampler", "own batches", "unbatched", "unsized"])
@pytest.mark.parametrize("start", [0, 2])
def test_the_indices_with_workers_and_after_a_cut(kind: str, start: int) -> None:
    source = source_of(made(kind, 9, 2, False, 2), False, indices=True)
    for batch, _, _ in source.read(start=start):
        assert source.batch_indices == batch.reshape(-1, 2)[:, 0].long().tolist()


@pytest.mark.parametrize("kind", ["stream", "stateful loader", "stateful stream"])
def test_indices_that_cannot_be_known_are_none(kind: str) -> None:
    source = source_of(made(kind, 5, 2, False, 0), False, indices=True)
    assert [source.batch_indices for _ in source.read()] == [None] * 3


def test_indices_are_none_where_nobody_asks_or_several_are_read_at_once() -> None:
    source = source_of(made("shuffled", 5, 2, False, 0), False)
    assert [source.batch_indices for _ in source.read()] == [None] * 3
    several = CombinedLoader([made("shuffled", 5, 2, False, 0)], "min_size")
    source = source_of(several, False, indices=True)
    assert [source.batch_indices for _ in source.read()] == [None] * 3


def test_evaluation_reads_the_loader_itself_where_nothing_is_asked() -> None:
    loader = made("shuffled", 5, 2, False, 0)
    source = source_of(loader, False)
    list(source.read())
    assert source.readers[0].leaves[0].indices is None
    asked = source_of(loader, False, indices=True)
    list(asked.read())
    assert asked.readers[0].leaves[0].indices is not None


@pytest.mark.parametrize("indices", [True, False])
def test_evaluation_draws_as_a_plain_loop_does(indices: bool) -> None:
    torch.manual_seed(2)
    plain = list(made("shuffled", 7, 2, True, 0))
    after = torch.rand(3)
    torch.manual_seed(2)
    source = source_of(made("shuffled", 7, 2, True, 0), False, indices=indices)
    assert same([batch for batch, _, _ in source.read()], plain)
    assert torch.equal(torch.rand(3), after)


# -- lengths, limits and epochs


def test_readers_of_training_and_of_evaluation() -> None:
    first, second = made("in order", 4, 1, False, 0), made("in order", 6, 1, False, 0)
    for given_, mode in [([first, second], "max_size_cycle"), ({"a": first, "b": second}, "max_size_cycle")]:
        source = source_of(given_, True)
        assert [reader.loader.mode for reader in source.readers] == [mode]
        assert (source.length, source.stop, source.batches) == (6, 6, [6])
        assert [reader.loader for reader in source_of(given_, False).readers] == [first, second]
        assert source_of(given_, False, limit=5).stops == [4, 5]
    for mode, stops in [("min_size", [4]), ("max_size", [6]), ("sequential", [4, 6])]:
        assert source_of(CombinedLoader([first, second], mode), False).stops == stops  # type: ignore[arg-type]  # of a list
    assert source_of(made("stream", 4, 1, False, 0), True).batches == [float("inf")]
    assert not source_of(made("stream", 4, 1, False, 0), True).knows_last


def test_at_most_so_many_are_read() -> None:
    source = source_of(made("in order", 6, 1, False, 0), False, limit=4)
    assert [(index, is_last) for _, index, is_last in source.read(most=2)] == [(0, False), (1, True)]
    assert [index for _, index, _ in source.read(most=9)] == [0, 1, 2, 3]
    assert list(source.read(start=4)) == []


@pytest.mark.parametrize("training", [True, False])
def test_a_loader_without_a_batch(training: bool) -> None:
    for limit in (1.0, 0.5, 3):
        with pytest.raises(EmptyLoader, match="mine has no batch: its length is 0"):
            source_of(made("in order", 0, 1, False, 0), training, limit=limit)
    assert source_of(made("in order", 0, 1, False, 0), training, limit=0).stops == [0]
    with pytest.raises(EmptyLoader, match="mine yielded no batch"):
        list(source_of(made("stream", 0, 1, False, 0), training).read())


def test_several_loaders_are_told_apart() -> None:
    with pytest.raises(EmptyLoader, match=r"mine \(loader 1\) has no batch"):
        source_of([made("in order", 1, 1, False, 0), made("in order", 0, 1, False, 0)], False)
    with pytest.warns(LeydenWarning, match=r"mine ended after 2 of the 3 batches"):
        source_of(made("in order", 3, 1, False, 0), False).report_short(0, 2)


def test_what_is_no_loader() -> None:
    with pytest.raises(InvalidLoader, match="mine is 3"):
        source_of(3, True)


@pytest.mark.parametrize("training", [True, False])
def test_every_sampler_is_told_the_epoch_once(training: bool) -> None:
    class Told(RandomSampler):
        def __init__(self, data: Any) -> None:
            super().__init__(data)
            self.epochs: list[int] = []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    data = Numbers(4)
    sampler = Told(data)
    loaders = [DataLoader(data, sampler=sampler, batch_size=2), DataLoader(data, sampler=sampler)]
    source = source_of(CombinedLoader(loaders, "min_size"), training)
    for epoch in (0, 1):
        list(source.read(epoch))
    assert sampler.epochs == [0, 1]


# -- containers of plain numbers


class Noting(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def note(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.seen.append((batch, batch_idx, dataloader_idx))

    validation_step = test_step = predict_step = note


def quiet() -> leyden.Trainer:
    return leyden.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)


@pytest.mark.parametrize("loaders", [{"a": [0, 1], "b": [2, 3]}, [[0, 1], [2, 3]], ((0, 1), (2, 3))])
def test_each_container_of_plain_numbers_is_a_loader(loaders: Any) -> None:
    module = Noting()
    quiet().predict(module, loaders)
    assert module.seen == [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]


@pytest.mark.parametrize(("loader", "batches"), [([0], [0]), (["a", "b"], ["a", "b"]), ((1, 2.5), [1, 2.5]), ({7}, [7])])
def test_one_container_of_plain_numbers_is_one_loader(loader: Any, batches: list[Any]) -> None:
    module = Noting()
    quiet().test(module, loader, verbose=False)
    assert module.seen == [(batch, index, 0) for index, batch in enumerate(batches)]


@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle", "max_size", "sequential"])
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_combined_loader_of_them_is_evaluated_in_every_mode(mode: Any, verb: str) -> None:
    mine, module = quiet(), Noting()
    getattr(mine, verb)(module, CombinedLoader({"a": [0, 1, 2], "b": {3, 4}}, mode), verbose=False)
    assert (mine.num_val_batches if verb == "validate" else mine.num_test_batches) == [3, 2]
    expected = {
        "min_size": [({"a": 0, "b": 3}, 0, 0), ({"a": 1, "b": 4}, 1, 0)],
        "max_size": [({"a": 0, "b": 3}, 0, 0), ({"a": 1, "b": 4}, 1, 0), ({"a": 2, "b": None}, 2, 0)],
        "max_size_cycle": [({"a": 0, "b": 3}, 0, 0), ({"a": 1, "b": 4}, 1, 0), ({"a": 2, "b": 3}, 2, 0)],
        "sequential": [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 0, 1), (4, 1, 1)],
    }
    assert module.seen == expected[mode]


def test_flattened_loaders_fill_the_same_structure() -> None:
    combined = CombinedLoader([[0], [[1], [[2]]]])
    assert combined.flattened == [[0], [1], [2]]
    combined.flattened = [[3], [4], [5]]
    assert combined.iterables == [[3], [[4], [[5]]]]
    with pytest.raises(ValueError, match="3 loaders"):
        combined.flattened = [[3]]


def test_a_state_taken_before_anything_is_read_again_is_the_one_that_was_put_back() -> None:
    """A sampler that tells its own state is asked for nothing before the first batch is."""
    samples = TensorDataset(torch.arange(10))

    def source() -> Source:
        return Source(DataLoader(samples, 2, sampler=StatefulSampler(10)), "loader", 1.0, "limit", training=True)

    whole = [batch[0].tolist() for batch, _, _ in source().read()]
    first = source()
    reading = first.read()
    seen = [next(reading)[0][0].tolist() for _ in range(2)]
    state = first.state_dict(0, 2)
    for _ in range(3):  # cut, and cut again before a batch was read
        going_on = source()
        going_on.restore(state)
        reading = going_on.read(0, 2)
        state = going_on.state_dict(0, 2)
    assert seen + [batch[0].tolist() for batch, _, _ in reading] == whole
