"""The position in the data: what a loader is left as, what workers draw, what is skipped, and what is said not to be exact."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
from kit import Halves, Stream, same
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    get_worker_info,
)

import leyden
from leyden.checkpoint.random_state import random_state
from leyden.data.indices import is_repeatable
from leyden.data.position import LoaderPosition
from leyden.data.reader import Reader
from leyden.data.seeded import SeededDataset, Tagged, TaggedIndex, batch_seed, epoch_seed
from leyden.errors import CheckpointError, CheckpointMismatch, LeydenWarning
from leyden.testing import BoringModel, Recorder, random_batches

SIX = torch.arange(6.0).reshape(6, 1).repeat(1, 4)


class Noise(Dataset[Tensor]):
    """Nothing but what the three generators draw; counts its readings."""

    scale = 2.0

    def __init__(self, count: int = 10) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        self.read.append(index)
        return torch.tensor([index, float(torch.randn(())), random.random(), float(np.random.rand())])


class NoiseByBatch(Noise):
    """Reads a whole batch at once."""

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        return [self[index] for index in indices]


class Collects(leyden.LightningModule):
    """Keeps the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.batches.append(batch.clone())
        torch.randn(1)  # as dropout would
        return self.weight * batch.mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SavesAt(leyden.Callback):
    def __init__(self, batches: int, path: Path) -> None:
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.leyden_fit.progress.batches == self.batches:
            trainer.save_checkpoint(self.path)


def trained(loader: Any, *callbacks: Any, ckpt_path: Path | None = None, epochs: int = 2) -> list[Tensor]:
    net = Collects()
    kit.fit(net, loader, ckpt_path=ckpt_path, callbacks=list(callbacks), max_epochs=epochs)
    return net.batches


# -- workers


@pytest.mark.parametrize("dataset", [Noise, NoiseByBatch])
@pytest.mark.parametrize("batch_size", [3, None])
@pytest.mark.parametrize("own", [False, True])
def test_seeded_data_depends_on_no_number_of_workers(dataset: Any, batch_size: int | None, own: bool) -> None:
    results = []
    for workers in ({"num_workers": 0}, {"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}):
        leyden.seed_everything(3, workers=True)
        generator = torch.Generator().manual_seed(8) if own else None
        results.append(trained(DataLoader(dataset(), batch_size=batch_size, shuffle=True, generator=generator, **workers)))
    assert all(same(results[0], other) for other in results[1:])
    assert not same(results[0][: len(results[0]) // 2], results[0][len(results[0]) // 2 :])  # epochs differ


def test_samples_of_a_batch_and_batches_of_an_epoch_differ() -> None:
    leyden.seed_everything(3, workers=True)
    batches = trained(DataLoader(Noise(), batch_size=2, num_workers=2), epochs=1)
    values = torch.cat(batches)[:, 1:]
    assert len({float(value) for value in values.flatten()}) == values.numel()


def test_without_workers_samples_draw_from_the_process_as_in_a_plain_loop() -> None:
    leyden.seed_everything(3)
    batches = trained(DataLoader(Noise(), batch_size=3, shuffle=True))
    leyden.seed_everything(3)
    plain = []
    for _ in range(2):
        for batch in DataLoader(Noise(), batch_size=3, shuffle=True):
            plain.append(batch)
            torch.randn(1)
    assert same(batches, plain)


@pytest.mark.parametrize("batch_size", [5, 3, None])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_generator_of_the_loader_s_own_goes_on_as_in_a_plain_loop(batch_size: int | None, workers: int) -> None:
    def loader() -> Any:
        generator = torch.Generator().manual_seed(9)
        return DataLoader(Noise(), batch_size=batch_size, shuffle=True, generator=generator, num_workers=workers)

    mine, plain = trained(loader(), epochs=3), loader()
    theirs = [batch for _ in range(3) for batch in plain]
    assert [batch[..., 0].tolist() for batch in mine] == [batch[..., 0].tolist() for batch in theirs]


def test_with_workers_the_order_is_the_plain_loop_s() -> None:
    leyden.seed_everything(3)
    batches = trained(DataLoader(Noise(), batch_size=3, shuffle=True, num_workers=1))
    leyden.seed_everything(3)
    plain = []
    for _ in range(2):
        for batch in DataLoader(Noise(), batch_size=3, shuffle=True, num_workers=1):
            plain.append(batch)
            torch.randn(1)
    assert [batch[:, 0].tolist() for batch in batches] == [batch[:, 0].tolist() for batch in plain]


class TellsItsDataset:
    """A ``worker_init_fn`` that looks at the dataset, as users' do, and fails in the worker where it is not what it was."""

    def __call__(self, number: int) -> None:
        info = get_worker_info()
        assert info is not None
        dataset = info.dataset
        assert isinstance(dataset, Noise)
        assert len(dataset) == 10
        assert dataset.scale == 2.0
        dataset.count = 4
        assert len(dataset) == 4


def test_the_dataset_in_a_worker_is_the_user_s() -> None:
    loader = DataLoader(Noise(), batch_size=3, num_workers=1, worker_init_fn=TellsItsDataset())
    assert len(trained(loader, epochs=1)) == 4


class OwnLoader(DataLoader[Any]):
    def __init__(self, dataset: Any, note: str, **keywords: Any) -> None:
        super().__init__(dataset, **keywords)
        self.note = note


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_given_is_left_as_it_was(workers: int, tmp_path: Path) -> None:
    dataset = Noise()
    sampler = RandomSampler(dataset)
    batch_sampler = BatchSampler(sampler, 3, drop_last=False)
    loader = OwnLoader(dataset, "mine", batch_sampler=batch_sampler, num_workers=workers, persistent_workers=workers > 0)
    before = {name: value for name, value in loader.__dict__.items() if name != "_iterator"}
    trained(loader, SavesAt(2, tmp_path / "at2.ckpt"))
    trained(loader, ckpt_path=tmp_path / "at2.ckpt")
    assert {name: value for name, value in loader.__dict__.items() if name != "_iterator"} == before
    assert loader.dataset is dataset
    assert loader.batch_sampler is batch_sampler
    assert batch_sampler.sampler is sampler
    assert sampler.__dict__.keys() == RandomSampler(dataset).__dict__.keys()


def test_what_is_read_is_of_the_loader_s_class() -> None:
    position = LoaderPosition(OwnLoader(Noise(), "mine", batch_size=3, num_workers=1))
    position.opened = {"random": random_state(), "generators": {}, "epoch": 0, "continued": False}
    copied = position._wrapped(0)
    assert type(copied) is OwnLoader
    assert copied.note == "mine"
    assert copied.batch_size == 3
    assert copied is not position.loader


# -- skipping


@pytest.mark.parametrize("batch_size", [2, None])
def test_what_was_used_before_the_cut_is_not_read_again(batch_size: int | None, tmp_path: Path) -> None:
    path = tmp_path / "at3.ckpt"
    leyden.seed_everything(1)
    full = trained(DataLoader(Noise(), batch_size=batch_size, shuffle=True), SavesAt(3, path), epochs=1)
    dataset = Noise()
    resumed = trained(DataLoader(dataset, batch_size=batch_size, shuffle=True), ckpt_path=path, epochs=1)
    assert same(full[3:], resumed)
    assert len(dataset.read) == 10 - 3 * (batch_size or 1)


# without workers, what such a loader holds back was drawn by the process's generators, of which it is not known when
@pytest.mark.parametrize(("workers", "cut"), [(0, 2), (0, 4), (1, 1), (1, 2), (1, 3), (1, 7)])
def test_a_loader_that_iterates_in_its_own_way_is_read_from_its_beginning(workers: int, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"

    def loader() -> Any:
        return Halves(Noise(8), batch_size=2, shuffle=True, num_workers=workers)

    leyden.seed_everything(1)
    full = trained(loader(), SavesAt(cut, path), epochs=1)
    leyden.seed_everything(2)
    assert same(full[cut:], trained(loader(), ckpt_path=path, epochs=1))


# -- what is said


class DrawsAsItGoes(Sampler[int]):
    """Draws each index from the global generator when it is asked for it."""

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return (int(torch.randint(100, ())) % 10 for _ in range(self.count))


def test_a_sampler_that_draws_from_the_process_as_it_goes_is_refused_inside_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "at2.ckpt"
    leyden.seed_everything(1)
    trained(DataLoader(Noise(), batch_size=3, sampler=DrawsAsItGoes()), SavesAt(2, path), epochs=1)
    with pytest.raises(CheckpointMismatch, match="DrawsAsItGoes gave other indices when it was read again"):
        trained(DataLoader(Noise(), batch_size=3, sampler=DrawsAsItGoes()), ckpt_path=path, epochs=1)


def test_an_iterator_is_told_of() -> None:
    with pytest.warns(LeydenWarning, match="is an iterator"):
        trained(iter([torch.ones(1, 4)]), epochs=1)


class OwnGenerator(Noise):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def __getitem__(self, index: int) -> Tensor:
        return torch.randn(4, generator=self.generator)


def test_a_generator_in_a_dataset_that_workers_copy_is_told_of_once() -> None:
    loader = DataLoader(OwnGenerator(), batch_size=5, num_workers=1)
    with pytest.warns(LeydenWarning, match=r"random generators of its own \(dataset.generator\)") as told:
        trained(loader)
    assert len([each for each in told if issubclass(each.category, LeydenWarning)]) == 1


class Starts:
    """A ``worker_init_fn`` with a generator of its own."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def __call__(self, worker: int) -> None:
        torch.randn(1, generator=self.generator)


def test_a_generator_that_starts_workers_is_told_of() -> None:
    loader = DataLoader(Noise(), batch_size=5, num_workers=1, worker_init_fn=Starts())
    with pytest.warns(LeydenWarning, match=r"random generators of its own \(worker_init_fn.generator\)"):
        trained(loader)


def test_a_generator_in_a_dataset_is_continued_without_workers(tmp_path: Path) -> None:
    path = tmp_path / "at1.ckpt"
    full = trained(DataLoader(OwnGenerator(), batch_size=5), SavesAt(1, path))
    assert same(full[1:], trained(DataLoader(OwnGenerator(), batch_size=5), ckpt_path=path))


def test_a_stream_in_workers_that_live_on_is_told_of() -> None:
    with pytest.warns(LeydenWarning, match="iterable dataset in persistent workers"):
        trained(DataLoader(Stream(SIX), batch_size=2, num_workers=1, persistent_workers=True), epochs=1)


def test_nothing_is_said_of_what_is_exact() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for workers in (0, 1):
            trained(DataLoader(Noise(), batch_size=5, shuffle=True, num_workers=workers), epochs=1)
            trained(DataLoader(Stream(SIX), batch_size=3, num_workers=workers), epochs=1)


# -- the parts


def test_only_samplers_of_pytorch_s_own_are_read_again_by_the_random_state_alone() -> None:
    data = range(4)

    class Mine(RandomSampler):
        pass

    assert is_repeatable(RandomSampler(data))
    assert is_repeatable(BatchSampler(SequentialSampler(data), 2, False))
    assert not is_repeatable(Mine(data))
    assert not is_repeatable(BatchSampler(DrawsAsItGoes(), 2, False))
    assert not is_repeatable([[0, 1], [2]])


def test_seeds_differ_by_epoch_and_position_and_draw_nothing() -> None:
    state = {"torch": torch.get_rng_state()}
    assert epoch_seed(state, {}, 0) == epoch_seed(state, {}, 0)
    assert len({epoch_seed(state, {}, epoch) for epoch in range(50)}) == 50
    assert epoch_seed(state, {"generator": torch.zeros(4)}, 0) != epoch_seed(state, {}, 0)
    assert len({batch_seed(7, position) for position in range(50)}) == 50
    assert all(0 <= batch_seed(7, position) < 2**63 for position in range(50))
    assert torch.equal(torch.get_rng_state(), state["torch"])


def test_a_seeded_dataset_is_the_dataset_in_everything_else() -> None:
    dataset = Noise()
    seeded: Any = SeededDataset(dataset, in_process=True)
    assert isinstance(seeded, Noise)
    assert len(seeded) == 10
    seeded.count = 3
    assert dataset.count == 3
    assert torch.equal(seeded[TaggedIndex(2, 5)], seeded[TaggedIndex(2, 5)])
    assert not torch.equal(seeded[2], seeded[2])
    first, second = seeded.__getitems__(Tagged([1, 1], 5))
    assert not torch.equal(first, second)
    assert copy.copy(seeded).count == 3
    with pytest.raises(AttributeError):
        _ = seeded.missing


def test_reading_with_a_seed_leaves_the_process_s_generators_alone() -> None:
    seeded: Any = SeededDataset(Noise(), in_process=True)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    seeded[TaggedIndex(0, 1)]
    seeded.__getitems__(Tagged([0, 1], 1))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_a_reader_holds_one_leaf_for_each_loader() -> None:
    from leyden.data.combined import CombinedLoader

    first, second = DataLoader(Noise()), DataLoader(Stream(SIX))
    assert [leaf.loader for leaf in Reader(CombinedLoader({"a": first, "b": second})).leaves] == [first, second]
    assert [leaf.loader for leaf in Reader(first).leaves] == [first]


def test_an_opening_without_its_epoch_is_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    save = Recorder(on_train_batch_end=lambda run, module, outputs, batch, index: index == 1 and run.save_checkpoint(path))
    kit.trainer(save, limit_val_batches=0).fit(BoringModel(), random_batches(4))
    content = torch.load(path, weights_only=True)
    del content["leyden"]["processes"][0]["data"]["leaves"][0]["opened"]["epoch"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="epoch"):
        kit.trainer(max_epochs=2, limit_val_batches=0).fit(BoringModel(), random_batches(4), ckpt_path=path)
