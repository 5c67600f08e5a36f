"""Samplers and loaders that carry something from pass to pass go on with it after a cut, and watching does not move them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kit
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, Subset, WeightedRandomSampler

import leyden
from leyden.data.carried import Carried
from leyden.errors import LeydenWarning

COUNT, EPOCHS = 8, 3


class Samples(Dataset[Tensor]):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index)])


class Counts(Sampler[int]):
    """Seeds itself by a count of its own passes."""

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return COUNT

    def order(self) -> list[int]:
        self.epoch += 1
        return random.Random(self.epoch).sample(range(COUNT), COUNT)

    def __iter__(self) -> Iterator[int]:
        yield from self.order()


class ShufflesOn(Counts):
    """Shuffles the order that the last pass left, in a list, an array and a tensor."""

    def __init__(self) -> None:
        self.steps = [2, 3, 5]
        self.array = np.arange(COUNT)
        self.tensor = torch.arange(COUNT)

    def order(self) -> list[int]:
        self.steps.append(self.steps.pop(0))
        self.array[:] = np.roll(self.array, self.steps[0])
        self.tensor = self.tensor.flip(0).roll(self.steps[0])
        return [int(self.tensor[number]) for number in self.array]


class Inside(Counts):
    """Asks another sampler, which counts."""

    def __init__(self) -> None:
        self.others = [Counts(), ShufflesOn()]
        self.held = SimpleNamespace(turn=0)

    def order(self) -> list[int]:
        self.held.turn += 1
        return list(self.others[self.held.turn % 2])


class Batches:
    """A batch sampler of no base class, whose batches grow."""

    def __init__(self) -> None:
        self.sampler, self.passes = Counts(), 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[list[int]]:
        self.passes += 1
        order = list(self.sampler)
        return iter([order[:1], order[1:3], order[3:4], order[4 : 5 + self.passes]])


class Told(Counts):
    """Tells its own state."""

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.place, self.resumed = state["epoch"], state["place"], True

    place, resumed = 0, False

    def __iter__(self) -> Iterator[int]:
        if not self.resumed or self.place >= COUNT:
            self.epoch, self.place = self.epoch + 1, 0
        self.resumed = False
        for index in random.Random(self.epoch).sample(range(COUNT), COUNT)[self.place :]:
            self.place += 1
            yield index


class Stream(IterableDataset[Tensor]):
    def __init__(self) -> None:
        self.counts = Counts()
        self.epoch = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        return (torch.tensor([float(index * self.epoch)]) for index in self.counts)


class Own:
    """A loader of the user's own."""

    def __init__(self) -> None:
        self.inner = DataLoader(Samples(), 2, sampler=Counts())
        self.passes = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[Tensor]:
        self.passes += 1
        for batch in self.inner:
            yield batch + self.passes


class Reading(DataLoader[Tensor]):
    """A loader whose own iteration counts."""

    passes = 0

    def __iter__(self) -> Any:
        self.passes += 1
        return (batch * self.passes for batch in super().__iter__())


class Harder(Samples):
    """Gives more the more it was asked for, and tells how often that was."""

    asked = 0

    def __getitem__(self, index: int) -> Tensor:
        self.asked += 1
        return super().__getitem__(index) + 100 * self.asked

    def state_dict(self) -> dict[str, int]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.asked = state["asked"]


LOADERS: dict[str, Callable[[], Any]] = {
    "counts": lambda: DataLoader(Samples(), 2, sampler=Counts()),
    "workers": lambda: DataLoader(Samples(), 2, sampler=Counts(), num_workers=1),
    "persistent workers": lambda: DataLoader(Samples(), 2, sampler=Counts(), num_workers=1, persistent_workers=True),
    "shuffles on": lambda: DataLoader(Samples(), 2, sampler=ShufflesOn()),
    "inside": lambda: DataLoader(Samples(), 2, sampler=Inside()),
    "batches": lambda: DataLoader(Samples(), batch_sampler=Batches()),  # type: ignore[arg-type]  # PyTorch takes any iterable
    "told": lambda: DataLoader(Samples(), 2, sampler=Told()),
    "stream": lambda: DataLoader(Stream(), 2),
    "own": Own,
    "told by a dataset": lambda: DataLoader(Harder(), 2, shuffle=True),
    "told by one below": lambda: DataLoader(Subset(Harder(), range(COUNT)), 2, sampler=Counts()),
    "reading": lambda: Reading(Samples(), 2, sampler=Counts()),
    "side by side": lambda: {"a": DataLoader(Samples(), 2, sampler=Counts()), "b": DataLoader(Samples(), 4, sampler=Counts())},
}


class Module(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = list(batch.values()) if isinstance(batch, dict) else [batch]
        self.seen.append([part.flatten().tolist() for part in parts])
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Validating(Module):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.seen.append(["val", batch.flatten().tolist()])


def seen(loader: Any, path: Path, *, cut: int | None = None, resume: bool = False, val: Any = None, **options: Any) -> list[Any]:
    """What a run reads; with ``cut`` it ends after so many steps, and saves."""
    leyden.seed_everything(0)
    module = Module() if val is None else Validating()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = leyden.Trainer(max_epochs=EPOCHS, max_steps=cut or -1, logger=False, accelerator="cpu", **{**quiet, **options})
    trainer.fit(module, loader, val, ckpt_path=path if resume else None)
    if cut is not None:
        trainer.save_checkpoint(path)
    return module.seen


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_that_carries_something_goes_on_with_it(name: str, tmp_path: Path) -> None:
    make = LOADERS[name]
    whole = seen(make(), tmp_path / "a.ckpt")
    assert whole[:4] != whole[4:8]
    for cut in (2, 4, 7, 8):
        first = seen(make(), tmp_path / "a.ckpt", cut=cut)
        assert first + seen(make(), tmp_path / "a.ckpt", resume=True) == whole, cut


def test_validation_that_uses_the_same_sampler_does_not_move_it(tmp_path: Path) -> None:
    def read(**options: Any) -> list[Any]:
        loader = DataLoader(Samples(), 2, sampler=Counts())
        return [each for each in seen(loader, tmp_path, val=loader, **options) if each[0] != "val"]

    assert read(num_sanity_val_steps=2, val_check_interval=3) == read(limit_val_batches=0)


@pytest.mark.parametrize("cut", [4, 6, 8])
def test_a_validation_loader_goes_on_too(cut: int, tmp_path: Path) -> None:
    def make() -> dict[str, Any]:
        return {"loader": LOADERS["counts"](), "val": LOADERS["counts"](), "num_sanity_val_steps": 0}

    whole = seen(path=tmp_path / "a.ckpt", **make())
    first = seen(path=tmp_path / "a.ckpt", cut=cut, **make())
    assert first + seen(path=tmp_path / "a.ckpt", resume=True, **make()) == whole


def test_a_curriculum_set_by_a_hook_is_the_hook_s(tmp_path: Path) -> None:
    class Curriculum(leyden.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.train_dataloader.sampler.epoch = 10 * trainer.current_epoch

    def options() -> dict[str, Any]:
        return {"loader": LOADERS["counts"](), "callbacks": [Curriculum()], "path": tmp_path / "a.ckpt"}

    whole = seen(**options())
    for cut in (2, 4, 6):
        assert seen(cut=cut, **options()) + seen(resume=True, **options()) == whole


def test_an_order_that_steps_change_is_drawn_from_what_they_left(tmp_path: Path) -> None:
    class ByLoss(Counts):
        """Gives first what had the smallest loss; whole orders, so that it is not asked again on the way."""

        def __init__(self) -> None:
            self.losses = torch.arange(float(COUNT))

        def __iter__(self) -> Iterator[int]:
            return iter(self.losses.argsort().tolist())

    class Tells(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            losses = trainer.train_dataloader.sampler.losses
            losses[batch.flatten().long()] = (batch.flatten() * 7 + trainer.current_epoch * batch_idx) % 11

    def options() -> dict[str, Any]:
        return {"loader": DataLoader(Samples(), 2, sampler=ByLoss()), "callbacks": [Tells()], "path": tmp_path / "a.ckpt"}

    whole = seen(**options())
    assert whole[:4] != whole[4:8]
    for cut in (1, 3, 4, 6):
        assert seen(cut=cut, **options()) + seen(resume=True, **options()) == whole, cut


class Memory:
    def __init__(self) -> None:
        self.rows: deque[Tensor] = deque([torch.tensor([float(number)]) for number in range(4)], maxlen=6)


class Replayed(IterableDataset[Tensor]):
    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(COUNT):
            yield self.memory.rows[int(torch.randint(len(self.memory.rows), ()))]


class ReplayedOn(Replayed):
    done = 0

    def __iter__(self) -> Iterator[Tensor]:
        while self.done < COUNT:
            self.done += 1
            yield self.memory.rows[int(torch.randint(len(self.memory.rows), ()))]
        self.done = 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]


class Remembers(Module):
    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.memory.rows.append(batch[0] + torch.rand(1))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("kind", "cuts"), [(Replayed, (4, 8)), (ReplayedOn, (2, 4, 7, 8))])
def test_a_replay_buffer_goes_on_at_an_epoch_s_end_and_inside_where_the_dataset_tells_its_state(
    kind: Any, cuts: Any, tmp_path: Path
) -> None:
    def read(cut: int | None = None, resume: bool = False) -> list[Any]:
        leyden.seed_everything(0)
        module = Remembers()
        trainer = kit.trainer(max_epochs=EPOCHS, max_steps=cut or -1)
        trainer.fit(module, DataLoader(kind(module.memory), 2), ckpt_path=tmp_path / "a.ckpt" if resume else None)
        if cut:
            trainer.save_checkpoint(tmp_path / "a.ckpt")
        return module.seen

    whole = read()
    for cut in cuts:
        assert read(cut) + read(resume=True) == whole, cut


class OfWeights(Counts):
    """Draws by weights, and counts its passes, which validation must not move."""

    def __init__(self) -> None:
        self.weights, self.epoch = torch.ones(COUNT), 0

    def take(self, weights: Tensor) -> None:
        self.weights = weights

    def order(self) -> list[int]:
        self.epoch += 1
        drawn = torch.multinomial(self.weights.float(), COUNT, True, generator=torch.Generator().manual_seed(self.epoch))
        return [int(each) for each in drawn]


class InTheValidation(leyden.Callback):
    """Gives a sampler other weights at each validation, also in the sanity check."""

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        weights = torch.full((COUNT,), 0.01).double()
        weights[(trainer.global_step + 1) % COUNT] = 1.0
        self.sampler.weights = weights


class ByAMethod(InTheValidation):
    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.sampler.take((torch.arange(COUNT) == trainer.global_step % COUNT).double() + 0.01)


class AfterABatch(InTheValidation):
    on_validation_epoch_end = leyden.Callback.on_validation_epoch_end

    def on_train_batch_end(self, *_: Any) -> None:
        self.sampler.weights = self.sampler.weights.roll(1) + torch.eye(COUNT).double()[0]


STEERED = [(OfWeights, InTheValidation), (OfWeights, ByAMethod), (OfWeights, AfterABatch)]
STEERED += [(lambda: WeightedRandomSampler(torch.ones(COUNT).double(), COUNT), kind) for kind in (InTheValidation, AfterABatch)]


@pytest.mark.parametrize(("make", "kind"), STEERED)
def test_what_hooks_set_in_a_sampler_counts_and_is_there_after_a_cut(make: Any, kind: Any, tmp_path: Path) -> None:
    steered: list[Any] = []

    def options() -> dict[str, Any]:
        steered[:] = [make()]
        loader, val = DataLoader(Samples(), 2, sampler=steered[0]), DataLoader(Samples(), 4)
        return {"loader": loader, "val": val, "callbacks": [kind(steered[0])], "path": tmp_path / "a.ckpt"}

    def read(**more: Any) -> list[Any]:
        return [each for each in seen(**options(), **more) if each[0] != "val"]

    whole, weights = read(), steered[0].weights
    assert len(set(weights.tolist())) > 1, "what the hook set stays"
    for cut in (1, 3, 4, 6, 8):
        assert read(cut=cut) + read(resume=True) == whole, cut
        assert torch.equal(steered[0].weights, weights)


@pytest.mark.parametrize("val", [False, True])
def test_a_loader_that_is_not_in_order_is_read_in_order(val: bool, tmp_path: Path) -> None:
    loader = DataLoader(Samples(), 2, num_workers=2, in_order=False)
    with pytest.warns(LeydenWarning, match="It is read in order"):
        read = seen(LOADERS["counts"]() if val else loader, tmp_path, val=loader if val else None, num_sanity_val_steps=0)
    assert [each[-1] for each in read if not val or each[0] == "val"][:4] == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert not loader.in_order


def test_a_long_order_is_kept_as_tensors() -> None:
    class Holds(Counts):
        def __init__(self) -> None:
            self.order_held: list[Any] = []
            self.batches: list[Any] = []
            self.large: list[Any] = []
            self.floats: list[Any] = []

    sampler = Holds()
    carried = Carried(DataLoader(Samples(), 2, sampler=sampler))
    held = {"order_held": list(range(300)), "batches": [[number] * (number % 4) for number in range(200)]}
    held |= {"large": [2**70] * 200, "floats": [0.5] * 200}  # type: ignore[dict-item]
    vars(sampler).update(held)
    state = carried.state_dict()
    assert {name for name, value in state["sampler"].items() if isinstance(value, dict)} == {"order_held", "batches"}
    vars(sampler).update({name: [] for name in held})
    carried.load_state_dict(state)
    assert {name: vars(sampler)[name] for name in held} == held


def test_nothing_is_kept_of_what_does_not_change() -> None:
    assert Carried(DataLoader(Samples(), 2, shuffle=True)).parts == {}
    loader = DataLoader(Samples(), 2, sampler=ShufflesOn())
    carried = Carried(loader)
    assert carried.state_dict() == {}
    steps = loader.sampler.steps  # type: ignore[attr-defined]
    list(loader)
    moved = carried.state_dict()
    assert list(moved["sampler"]) == ["steps", "array", "tensor"]
    carried.load_state_dict({})
    assert steps == [2, 3, 5]
    carried.load_state_dict(moved)
    assert steps == [3, 5, 2]
