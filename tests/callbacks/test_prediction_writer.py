"""BasePredictionWriter: what is written when, with the samples' true indices, and nothing kept that nobody wants."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import leyden
from leyden.callbacks import BasePredictionWriter
from leyden.callbacks.prediction_writer import WriteInterval
from leyden.data.combined import CombinedLoader
from leyden.errors import InvalidOption, MissingMethod


class Numbers(Dataset[Tensor]):
    """Sample ``i`` is ``i``, so that a batch says which indices it has."""

    def __init__(self, count: int = 10) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor(float(index))


class Groups(Sampler[list[int]]):
    """Batches of one's own."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[3, 1], [2], [9, 8, 7]])


class Doubling(leyden.LightningModule):
    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return 2 * batch


class Writer(BasePredictionWriter):
    def __init__(self, write_interval: Any) -> None:
        super().__init__(write_interval)
        self.batches: list[Any] = []
        self.epochs: list[Any] = []

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert torch.equal(prediction, 2 * batch)
        assert trainer.predict_loop.current_batch_indices == (batch_indices or [])
        self.batches.append((dataloader_idx, batch_idx, batch.tolist(), batch_indices))

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        assert trainer.predict_loop.predictions is predictions
        assert trainer.predict_loop.epoch_batch_indices is batch_indices
        self.epochs.append((predictions, batch_indices))


def written(
    loaders: Any, write_interval: str = "batch_and_epoch", keep: bool | None = None, **options: Any
) -> tuple[Writer, Any]:
    writer = Writer(write_interval)
    torch.manual_seed(0)
    return writer, kit.trainer(writer, **options).predict(Doubling(), loaders, return_predictions=keep)


LOADERS = {
    "in order": lambda: DataLoader(Numbers(), 4),
    "shuffled": lambda: DataLoader(Numbers(), 4, shuffle=True),
    "without the last": lambda: DataLoader(Numbers(), 4, shuffle=True, drop_last=True),
    "some of them": lambda: DataLoader(Numbers(), 2, sampler=SubsetRandomSampler([1, 5, 7, 9, 2])),
    "with repetitions": lambda: DataLoader(Numbers(), 4, sampler=WeightedRandomSampler([1.0] * 10, 9)),
    "batches of one's own": lambda: DataLoader(Numbers(), batch_sampler=Groups()),
    "with workers": lambda: DataLoader(Numbers(), 2, shuffle=True, num_workers=2),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_the_indices_are_those_of_the_batch(kind: str) -> None:
    writer, returned = written(LOADERS[kind]())
    assert [batch_idx for _, batch_idx, _, _ in writer.batches] == list(range(len(returned)))
    assert all(indices == [int(value) for value in values] for _, _, values, indices in writer.batches)
    ((predictions, indices),) = writer.epochs
    assert indices == [[each for *_, each in writer.batches]]
    assert kit.same(predictions, returned)


class Backwards(BatchSampler):
    """A batch sampler of one's own, that asks for its ``drop_last`` while it is read."""

    def __iter__(self) -> Iterator[list[int]]:
        return (batch[::-1] for batch in super().__iter__())


class Unrelated:
    """The same without PyTorch's base."""

    def __init__(self, drop_last: bool) -> None:
        self.batch_size, self.drop_last = 2, drop_last

    def __len__(self) -> int:
        return 5 // 2 if self.drop_last else 3

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[0, 1], [2, 3], [4]][: len(self)])


class Told(DataLoader[Any]):
    """A loader of one's own, whose batches go through its own hands."""

    def __iter__(self) -> Any:
        return iter(list(super().__iter__()))


LAST = {
    "in order": lambda: DataLoader(Numbers(5), 2, drop_last=True),
    "shuffled": lambda: DataLoader(Numbers(5), 2, shuffle=True, drop_last=True),
    "a batch sampler": lambda: DataLoader(Numbers(5), batch_sampler=BatchSampler(RandomSampler(range(5)), 2, True)),
    "one of one's own": lambda: DataLoader(Numbers(5), batch_sampler=Backwards(SequentialSampler(range(5)), 2, True)),
    "an unrelated one": lambda: DataLoader(Numbers(5), batch_sampler=Unrelated(True)),
    "a loader of one's own": lambda: Told(Numbers(5), 2, drop_last=True),
    "with workers": lambda: DataLoader(Numbers(5), 2, drop_last=True, num_workers=1),
}


@pytest.mark.parametrize("kind", LAST)
def test_the_batch_that_a_loader_drops_is_predicted(kind: str) -> None:
    loader = LAST[kind]()
    before = dict(vars(loader))
    writer, returned = written(loader)
    assert torch.cat(returned).sort().values.tolist() == [0, 2, 4, 6, 8]
    if kind != "a loader of one's own":  # what that gives need not be what its sampler says
        assert all(indices == [int(value) for value in values] for _, _, values, indices in writer.batches)
    assert vars(loader) == before
    assert len(loader) == 2
    assert loader.batch_sampler.drop_last


def test_the_batches_that_several_loaders_drop_are_predicted() -> None:
    loaders = [DataLoader(Numbers(3), 2, drop_last=True), DataLoader(Numbers(2), 2, drop_last=True)]
    for given in (loaders, dict(enumerate(loaders)), CombinedLoader(loaders, "sequential")):
        writer, returned = written(given)
        assert [[len(each) for each in of_loader] for of_loader in returned] == [[2, 1], [2]]
        assert writer.epochs[0][1] == [[[0, 1], [2]], [[0, 1]]]
    assert [len(loader) for loader in loaders] == [1, 1]


def test_hooks_see_the_loader_that_is_read() -> None:
    run = kit.trainer(limit_predict_batches=1.0)
    run.predict(Doubling(), DataLoader(Numbers(5), 2, drop_last=True))
    assert len(run.predict_dataloaders) == run.num_predict_batches[0] == 3


def test_what_drops_nothing_or_cannot_be_told_is_read_as_it_is() -> None:
    class Settled(Unrelated):
        @property
        def drop_last(self) -> bool:  # type: ignore[override]
            return True

        def __init__(self) -> None:
            self.batch_size = 2

    stream = DataLoader(kit.Stream(torch.arange(5.0)), 2, drop_last=True)
    given = [DataLoader(Numbers(5), 2), stream, DataLoader(Numbers(5), batch_sampler=Settled())]
    run = kit.trainer()
    predicted = run.predict(Doubling(), given)
    assert [len(of_loader) for of_loader in predicted] == [3, 2, 2]
    assert run.predict_dataloaders is given


def test_samples_that_are_not_batched_have_theirs() -> None:
    writer, _ = written(DataLoader(Numbers(3), batch_size=None))
    assert [indices for *_, indices in writer.batches] == [[0], [1], [2]]


def test_several_loaders_each_have_their_own() -> None:
    writer, returned = written([DataLoader(Numbers(3), 2), DataLoader(Numbers(2), 1)], limit_predict_batches=2)
    assert writer.batches == [(0, 0, [0, 1], [0, 1]), (0, 1, [2], [2]), (1, 0, [0], [0]), (1, 1, [1], [1])]
    ((predictions, indices),) = writer.epochs
    assert indices == [[[0, 1], [2]], [[0], [1]]]
    assert kit.same(predictions, returned)
    assert [[len(each) for each in of_loader] for of_loader in returned] == [[2, 1], [1, 1]]


@pytest.mark.parametrize("loader", [DataLoader(kit.Stream(torch.arange(5.0)), 2), kit.Halves(Numbers(4), 4), [torch.ones(2)] * 2])
def test_indices_that_nobody_knows_are_none_and_never_wrong(loader: Any) -> None:
    if isinstance(loader, list):
        loader = type("Own", (), {"__iter__": lambda self: iter([torch.ones(2)] * 2)})()
    writer, _ = written(loader)
    assert writer.batches
    assert all(indices is None for *_, indices in writer.batches)
    assert writer.epochs[0][1] == [[]]


def test_what_one_loader_knows_is_known_beside_one_that_does_not() -> None:
    writer, _ = written([DataLoader(Numbers(2), 2), DataLoader(kit.Stream(torch.arange(2.0)), 2), DataLoader(Numbers(1))])
    assert [indices for *_, indices in writer.batches] == [[0, 1], None, [0]]
    assert writer.epochs[0][1] == [[[0, 1]], [], [[0]]]


@pytest.mark.parametrize(("interval", "calls"), [("batch", (3, 0)), ("epoch", (0, 1)), ("batch_and_epoch", (3, 1))])
@pytest.mark.parametrize("keep", [None, False])
def test_each_interval_calls_its_methods(interval: str, calls: tuple[int, int], keep: bool | None) -> None:
    writer, returned = written(DataLoader(Numbers(), 4), interval, keep)
    assert (len(writer.batches), len(writer.epochs)) == calls
    assert (returned is None) == (keep is False)
    assert writer.interval == WriteInterval(interval) == interval


class Watched(leyden.LightningModule):
    """Counts how many of its predictions are alive when a batch begins."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.alive: list[int] = []

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        gc.collect()
        self.alive.append(sum(each() is not None for each in self.made))
        prediction = 2 * batch
        self.made.append(weakref.ref(prediction))
        return prediction


def test_predictions_are_let_go_of_with_the_list_that_was_returned() -> None:
    module = Watched()
    run = kit.trainer()
    predictions = run.predict(module, DataLoader(Numbers(6), 1))
    assert len(predictions) == 6
    assert run.predict_loop.predictions == run.predict_loop.epoch_batch_indices == []


def test_without_predictions_returned_nothing_is_kept_but_what_is_written_at_the_end() -> None:
    class Nothing(BasePredictionWriter):
        def write_on_batch_end(self, *_: Any) -> None: ...
        def write_on_epoch_end(self, *_: Any) -> None: ...

    most = {}
    for interval in ("batch", "epoch"):
        module = Watched()
        run = kit.trainer(Nothing(interval))
        assert run.predict(module, DataLoader(Numbers(6), 1), return_predictions=False) is None
        most[interval] = max(module.alive)
        assert run.predict_loop.predictions == run.predict_loop.epoch_batch_indices == []
    assert most["batch"] <= 1  # the newest
    assert most["epoch"] == 5


def test_files_of_a_writer_with_the_loader_in_any_order(tmp_path: Path) -> None:
    class Files(BasePredictionWriter):
        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

        def write_on_batch_end(self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, *_: Any) -> None:
            for index, value in zip(batch_indices, prediction, strict=True):
                torch.save(value.clone(), self.folder / f"{index}.pt")

    kit.trainer(Files(tmp_path)).predict(Doubling(), DataLoader(Numbers(5), 2, shuffle=True), return_predictions=False)
    assert {int(file.stem): float(torch.load(file)) for file in tmp_path.iterdir()} == {0: 0, 1: 2, 2: 4, 3: 6, 4: 8}


# -- bad input
@pytest.mark.parametrize("given", ["batches", None, 3, ["batch"]])
def test_another_interval_is_refused(given: Any) -> None:
    with pytest.raises(InvalidOption, match='expected "batch", "epoch" or "batch_and_epoch"'):
        BasePredictionWriter(given)


@pytest.mark.parametrize(("interval", "name"), [("batch", "write_on_batch_end"), ("epoch", "write_on_epoch_end")])
def test_a_method_that_is_missing_is_told_before_the_first_batch(interval: Any, name: str) -> None:
    module = Watched()
    with pytest.raises(NotImplementedError, match=rf"write_interval='{interval}' and has no method {name}\. Override it"):
        kit.trainer(BasePredictionWriter(interval)).predict(module, DataLoader(Numbers(2)))
    assert module.made == []
    with pytest.raises(MissingMethod, match=name):
        getattr(BasePredictionWriter(interval), name)(*[None] * (7 if interval == "batch" else 4))
    kit.fit(kit.Tiny(), kit.ones(1), callbacks=[BasePredictionWriter(interval)])  # which predicts nothing
