"""overfit_batches reads the first batches of the user's own sampler, whatever it yields, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
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
from leyden.data.combined import CombinedLoader
from leyden.errors import LeydenWarning
from leyden.testing import Recorder


class Ledger(Dataset[Any]):
    """Notes what is read of it."""

    def __init__(self, allowed: Any = range(40)) -> None:
        self.allowed, self.read = set(allowed), list[Any]()

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        number = index["at"] if isinstance(index, dict) else index
        assert number in self.allowed
        return torch.tensor(float(number))


class Own(Sampler[Any]):
    """Yields whatever it was given, in an order of its own that it draws for each pass."""

    def __init__(self, items: list[Any], known: bool = True) -> None:
        self.items = items
        if known:
            self.count = len(items)

    def __len__(self) -> int:
        if not hasattr(self, "count"):
            raise TypeError
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter([self.items[i] for i in torch.randperm(len(self.items)).tolist()])


class Net(kit.Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Any]] = [[] for _ in range(3)]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen[self.current_epoch].append(torch.utils._pytree.tree_map(torch.Tensor.tolist, batch))
        return self.layer(torch.ones(2)).sum()


def fit(data: Any, batches: int | float = 2, *callbacks: Any, path: Path | None = None, seed: int = 0) -> Net:
    leyden.seed_everything(seed)
    net = Net()
    kit.trainer(*callbacks, max_epochs=3, overfit_batches=batches).fit(net, data, ckpt_path=path)
    return net


def test_the_trainer_shows_the_loader_that_is_read() -> None:
    data = DataLoader(Ledger(), 2, shuffle=True)
    run = kit.trainer(max_epochs=1, overfit_batches=2)
    with pytest.warns(LeydenWarning, match="shuffling of the training loader is turned off"):
        run.fit(Net(), data)
    assert isinstance(run.train_dataloader.sampler, SequentialSampler)
    assert isinstance(data.sampler, RandomSampler)


INSIDE = [15, 16, 17, 18, 19, 20]
LOADERS: dict[str, tuple[Any, Any]] = {
    "own sampler": (lambda data: DataLoader(data, 2, sampler=Own(INSIDE)), INSIDE),
    "without length": (lambda data: DataLoader(data, 2, sampler=Own(INSIDE, known=False)), INSIDE),
    "dicts": (lambda data: DataLoader(data, 2, sampler=Own([{"at": 3}, {"at": 4}, {"at": 5}, {"at": 6}])), [3, 4, 5, 6]),
    "own batch sampler": (lambda data: DataLoader(data, batch_sampler=Own([[1, 2], [3], [4, 5, 6]])), range(7)),
    "own batches by sampler": (lambda data: DataLoader(data, batch_size=None, sampler=Own(INSIDE)), INSIDE),
    "subset": (lambda data: DataLoader(data, 2, sampler=SubsetRandomSampler(INSIDE)), INSIDE),
    "weighted": (lambda data: DataLoader(data, 2, sampler=WeightedRandomSampler([0.0] * 30 + [1.0] * 10, 8)), range(30, 40)),
    "of other data": (lambda data: DataLoader(data, 2, sampler=RandomSampler(range(6))), range(6)),
    "batches of batches": (lambda data: DataLoader(data, batch_sampler=BatchSampler(Own(INSIDE), 2, False)), INSIDE),
    "in order": (lambda data: DataLoader(data, 2), range(4)),
    "several": (
        lambda data: {"a": DataLoader(data, 2, sampler=Own(INSIDE)), "b": DataLoader(data, 1, sampler=Own([7, 8]))},
        [*INSIDE, 7, 8],
    ),
    "combined": (lambda data: CombinedLoader([DataLoader(data, 2, sampler=Own(INSIDE))], "max_size"), INSIDE),
}


@pytest.mark.filterwarnings("ignore:overfit_batches reads the same")
@pytest.mark.parametrize("name", LOADERS)
def test_the_same_first_batches_in_every_epoch(name: str, tmp_path: Path) -> None:
    make, allowed = LOADERS[name]
    data = Ledger(allowed)
    net = fit(make(data))
    assert len(net.seen[0]) == 2
    assert net.seen[0] == net.seen[1] == net.seen[2]
    saves = Recorder(on_train_batch_end=lambda run, *_: run.save_checkpoint(tmp_path / f"{run.leyden_fit.progress.batches}.ckpt"))
    whole = fit(make(Ledger(allowed)), 2, saves)
    for done in (1, 2, 3):
        rest = fit(make(Ledger(allowed)), 2, path=tmp_path / f"{done}.ckpt", seed=99)
        assert list(chain(*rest.seen)) == list(chain(*whole.seen))[done:]


def test_a_share_of_the_users_sampler() -> None:
    assert [len(epoch) for epoch in fit(DataLoader(Ledger(), 2, sampler=Own(list(range(20)))), 0.3).seen] == [3, 3, 3]


def test_nothing_is_drawn_from_what_training_draws() -> None:
    def after(data: Any) -> list[float]:
        drawn: list[float] = []
        fit(data, 2, Recorder(on_train_epoch_start=lambda *_: drawn.append(float(torch.rand(())))))
        return drawn

    assert after(DataLoader(Ledger(), 2, sampler=Own(INSIDE))) == after(DataLoader(Ledger(), 2))


def test_that_shuffling_is_turned_off_is_said() -> None:
    with pytest.warns(LeydenWarning, match="shuffling of the training loader is turned off"):
        assert fit(DataLoader(Ledger(), 2, shuffle=True)).seen[0] == [[0.0, 1.0], [2.0, 3.0]]
