"""Guarantee 3: in each epoch each sample once. What would break that (a leak, a loader that ends early) is said, never silent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, get_worker_info

import leyden
from leyden.errors import LeakedStopIteration, LeydenWarning


class Numbered(Dataset[Tensor]):
    """Samples that are their own index."""

    def __init__(self, count: int, fails: Callable[[int], None] = lambda index: None) -> None:
        self.count = count
        self.fails = fails

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.fails(index)
        return torch.tensor([float(index)])


class Stream(IterableDataset[Tensor]):
    """The same without a length, shared out among workers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.count, step):
            yield torch.tensor([float(index)])


class Ledger(leyden.LightningModule):
    """Writes down which samples each step of each epoch was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.trained: dict[int, list[int]] = {}
        self.validated: list[list[int]] = []
        self.others: list[int] = []

    @staticmethod
    def numbers(batch: Tensor) -> list[int]:
        return [int(each) for each in batch.flatten()]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained.setdefault(self.current_epoch, []).extend(self.numbers(batch))
        out: Tensor = self.layer(batch)
        return out.square().mean() * 0.0

    def on_validation_epoch_start(self) -> None:
        self.validated.append([])

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated[-1].extend(self.numbers(batch))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.others.extend(self.numbers(batch))

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.others.extend(self.numbers(batch))
        return batch

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = partial(kit.trainer, max_epochs=2, limit_val_batches=0)


def once(count: int) -> Counter[int]:
    return Counter(range(count))


def assert_once(module: Ledger, count: int, epochs: int = 2) -> None:
    assert sorted(module.trained) == list(range(epochs))
    for epoch, seen in module.trained.items():
        assert Counter(seen) == once(count), f"epoch {epoch}"


# -- training


@settings(max_examples=60)
@given(
    count=st.integers(1, 13),
    batch_size=st.integers(1, 5),
    shuffle=st.booleans(),
    accumulate=st.integers(1, 4),
    every=st.sampled_from([1.0, 0.5, 1]),
    validates=st.booleans(),
    sanity=st.integers(0, 2),
)
def test_training(count: int, batch_size: int, shuffle: bool, accumulate: int, every: Any, validates: bool, sanity: int) -> None:
    module = Ledger()
    run = trainer(
        accumulate_grad_batches=accumulate,
        val_check_interval=every,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=sanity,
    )
    run.fit(module, DataLoader(Numbered(count), batch_size=batch_size, shuffle=shuffle), DataLoader(Numbered(3), shuffle=True))
    assert_once(module, count)
    batches = -(-count // batch_size)
    assert run.global_step == 2 * -(-batches // accumulate)
    full = module.validated[1:] if sanity and validates else module.validated
    assert all(Counter(seen) == once(3) for seen in full)


@pytest.mark.parametrize("shuffle", [False, True])
def test_epochs_are_shuffled_anew(shuffle: bool) -> None:
    torch.manual_seed(0)
    module = Ledger()
    trainer().fit(module, DataLoader(Numbered(30), shuffle=shuffle))
    assert_once(module, 30)
    assert (module.trained[0] == module.trained[1]) is not shuffle


@pytest.mark.parametrize("persistent", [False, True])
def test_worker_processes(persistent: bool) -> None:
    module = Ledger()
    loader = DataLoader(Numbered(11), batch_size=2, shuffle=True, num_workers=2, persistent_workers=persistent)
    trainer(limit_val_batches=1.0).fit(module, loader, DataLoader(Numbered(5), num_workers=1))
    assert_once(module, 11)
    assert [Counter(seen) for seen in module.validated[1:]] == [once(5)] * 2


@pytest.mark.parametrize("workers", [0, 2])
def test_streams(workers: int) -> None:
    module = Ledger()
    trainer(accumulate_grad_batches=2).fit(module, DataLoader(Stream(9), batch_size=2, num_workers=workers))
    assert_once(module, 9)


def test_samplers_of_the_user_s() -> None:
    class Backwards(Sampler[int]):
        def __len__(self) -> int:
            return 7

        def __iter__(self) -> Iterator[int]:
            return iter(reversed(range(7)))

    for loader in (
        DataLoader(Numbered(7), sampler=Backwards()),
        DataLoader(Numbered(7), batch_sampler=BatchSampler(RandomSampler(range(7)), 3, drop_last=False)),
        DataLoader(Numbered(7), batch_size=None, sampler=Backwards()),
    ):
        module = Ledger()
        trainer().fit(module, loader)
        assert_once(module, 7)


@pytest.mark.parametrize(("limit", "expected"), [(2, 4), (0.5, 4), (1.0, 8), (100, 8)])
def test_a_limit_cuts_and_repeats_nothing(limit: Any, expected: int) -> None:
    module = Ledger()
    trainer(limit_train_batches=limit).fit(module, DataLoader(Numbered(8), batch_size=2))
    assert_once(module, expected)


def test_max_steps_cuts_and_repeats_nothing() -> None:
    module = Ledger()
    trainer(max_epochs=-1, max_steps=7).fit(module, DataLoader(Numbered(5), shuffle=True))
    assert Counter(module.trained[0]) == once(5)
    assert len(set(module.trained[1])) == len(module.trained[1]) == 2


def test_reloading_loses_nothing() -> None:
    class Own(Ledger):
        made = 0

        def train_dataloader(self) -> Any:
            self.made += 1
            return DataLoader(Numbered(5), shuffle=True)

    module = Own()
    trainer(reload_dataloaders_every_n_epochs=1, max_epochs=3).fit(module)
    assert_once(module, 5, epochs=3)
    assert module.made == 3


def test_a_skipped_step_takes_its_batch_and_no_other() -> None:
    class Skipping(Ledger):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

    module = Skipping()
    trainer(accumulate_grad_batches=2).fit(module, DataLoader(Numbered(6)))
    assert_once(module, 6)


def test_the_rest_of_an_epoch_is_skipped_on_request_only() -> None:
    class Cutting(Ledger):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if self.current_epoch == 0 and batch_idx == 2 else None

    module = Cutting()
    trainer().fit(module, DataLoader(Numbered(5)))
    assert module.trained == {0: [0, 1], 1: [0, 1, 2, 3, 4]}


# -- the other verbs


@pytest.mark.parametrize("verb", ["test", "predict"])
@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation(verb: str, workers: int) -> None:
    module = Ledger()
    getattr(trainer(), verb)(module, DataLoader(Numbered(7), batch_size=3, num_workers=workers))
    assert Counter(module.others) == once(7)
    assert module.others == sorted(module.others)


def test_several_validation_loaders() -> None:
    module = Ledger()
    trainer(limit_val_batches=1.0).validate(module, [DataLoader(Numbered(3)), DataLoader(Numbered(4), batch_size=2)])
    assert Counter(module.validated[0]) == once(3) + once(4)


# -- what would lose data


def stop_at_two(index: int) -> None:
    if index == 2:
        raise StopIteration


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_stop_iteration_in_the_dataset(verb: str, batch_size: int | None) -> None:
    run = trainer(limit_val_batches=0 if verb == "fit" else 1.0)
    with pytest.raises(LeakedStopIteration, match="raised StopIteration while batch"):
        getattr(run, verb)(Ledger(), DataLoader(Numbered(6, stop_at_two), batch_size=batch_size))


def test_a_stop_iteration_in_a_worker() -> None:
    with pytest.raises(LeakedStopIteration, match="while batch 2 was read"):
        trainer().fit(Ledger(), DataLoader(Numbered(6, stop_at_two), num_workers=1))


def test_a_stop_iteration_in_collate() -> None:
    def collate(samples: Any) -> Any:
        return next(iter([]))

    with pytest.raises(LeakedStopIteration, match="dataset \\(or collate_fn\\)"):
        trainer().fit(Ledger(), DataLoader(Numbered(6), collate_fn=collate))


def test_a_stop_iteration_in_a_stream() -> None:
    class Broken(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            yield torch.ones(1)
            next(iter([]))

    with pytest.raises(RuntimeError, match="generator raised StopIteration"):
        trainer().fit(Ledger(), DataLoader(Broken()))


@pytest.mark.parametrize(
    "place",
    ["training_step", "on_train_batch_start", "on_before_batch_transfer", "configure_optimizers", "train_dataloader", "setup"],
)
def test_a_stop_iteration_in_the_module(place: str) -> None:
    def leak(*arguments: Any, **keywords: Any) -> Any:
        return next(iter([]))

    module = type("Broken", (Ledger,), {place: leak})()
    given_loader = None if place == "train_dataloader" else DataLoader(Numbered(4))
    with pytest.raises(LeakedStopIteration, match="escaped from the code of a hook or step"):
        trainer().fit(module, given_loader)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_loader_that_ends_early_is_reported(accumulate: int) -> None:
    class Short(Sampler[int]):
        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    module, run = Ledger(), trainer(max_epochs=1, accumulate_grad_batches=accumulate)
    with pytest.warns(LeydenWarning, match="ended after 5 of the 8 batches that it said it has"):
        run.fit(module, DataLoader(Numbered(8), sampler=Short()))
    assert_once(module, 5, epochs=1)
    assert run.global_step == -(-5 // accumulate)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_one_that_ends_early_in_evaluation_is_reported_too(verb: str) -> None:
    class Short(Sampler[int]):
        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    with pytest.warns(LeydenWarning, match="ended after 5 of the 8 batches"):
        getattr(trainer(limit_val_batches=1.0), verb)(Ledger(), DataLoader(Numbered(8), sampler=Short()))


def test_an_early_end_under_a_limit_that_is_reached_is_none() -> None:
    class Short(Sampler[int]):
        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

    module = Ledger()
    trainer(limit_train_batches=5, max_epochs=1).fit(module, DataLoader(Numbered(8), sampler=Short()))
    assert_once(module, 5, epochs=1)
