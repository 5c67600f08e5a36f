"""What an epoch's hooks set in the user's other objects is there after a cut inside that epoch."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

import leyden
from leyden.checkpoint.set_elsewhere import SetElsewhere
from leyden.tree import same_bits


class Slots:
    __slots__ = ("by", "unset")

    def __init__(self) -> None:
        self.by = 0


class Samples(Dataset[Tensor]):
    """Harder from stage to stage. How often it was asked is a count of its own."""

    def __init__(self) -> None:
        self.stage, self.asked, self.order = 0, 0, list(range(12))
        self.transform = SimpleNamespace(strength=0)
        self.slots = Slots()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        self.asked += 1
        return torch.full((4,), self.order[index] / 12 + self.stage + self.transform.strength + self.slots.by)

    @property
    def level(self) -> int:
        return self.stage

    @level.setter
    def level(self, level: int) -> None:
        self.stage = level

    def set_epoch(self, epoch: int) -> None:
        self.stage = epoch + 1

    def advance(self) -> None:
        self.stage += 1


class Scaled(nn.Linear):
    by = 1

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch) * self.by


class Net(kit.Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Scaled(4, 1)
        self.config, self.samples = SimpleNamespace(weight=1), Samples()

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.layer(batch).square().mean() * self.config.weight

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass


def dataset_of(run: Any) -> Any:
    return run.train_dataloader.dataset


def harder(samples: Any, epoch: int) -> None:
    samples.stage = epoch + 2


class ByAttribute(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.train_dataloader.dataset.stage = trainer.current_epoch + 1


class ByMethod(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        dataset_of(trainer).set_epoch(trainer.current_epoch)


class ByProperty(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        dataset_of(trainer).level = trainer.current_epoch + 1


class ByFunction(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        harder(dataset_of(trainer), trainer.current_epoch)


class ByCounting(leyden.Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        dataset_of(trainer).advance()


class OfATransform(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        dataset_of(trainer).transform.strength = trainer.current_epoch + 1


class OfSlots(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        dataset_of(trainer).slots.by = trainer.current_epoch + 1


class AnOrder(leyden.Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        dataset_of(trainer).order = torch.randperm(12).tolist()


class OfALayer(leyden.Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.layer.by = trainer.current_epoch + 1
        pl_module.config.weight = 2 * trainer.current_epoch + 1


class InValidation(leyden.Callback):
    """Also in the sanity check, which a resumed run leaves out."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.samples.stage = trainer.global_step + 2


class PerBatch(leyden.Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        dataset_of(trainer).stage += 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.config.weight = pl_module.config.weight % 5 + 1


KINDS = [
    InValidation,
    PerBatch,
    ByAttribute,
    ByMethod,
    ByProperty,
    ByFunction,
    ByCounting,
    OfATransform,
    OfSlots,
    AnOrder,
    OfALayer,
]


def fitted(kind: type[leyden.Callback], path: Path, cut: int | None = None, resume: bool = False) -> dict[str, Tensor]:
    leyden.seed_everything(0)
    module = Net()

    def stop() -> None:
        run.save_checkpoint(path)
        raise kit.Crash

    run = kit.trainer(kind(), *([] if cut is None else [kit.at_batch(cut, stop)]), max_epochs=2, num_sanity_val_steps=2)
    with suppress(kit.Crash):
        run.fit(module, DataLoader(module.samples, 4), DataLoader(Samples(), 4), ckpt_path=path if resume else None)
    return kit.weights(module)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_cut_inside_an_epoch(kind: type[leyden.Callback], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    whole = fitted(kind, path)
    for cut in (1, 4):
        fitted(kind, path, cut=cut)
        assert kit.same(whole, fitted(kind, path, resume=True)), cut


def test_what_hooks_do_not_set_is_the_new_command_s() -> None:
    then, now = Samples(), Samples()
    elsewhere = SetElsewhere([ByMethod()], {"data": DataLoader(Subset(then, [0]))}, [])
    assert elsewhere.state_dict({"data": None}) == {}
    elsewhere = SetElsewhere([ByMethod()], roots := {"data": DataLoader(Subset(then, [0]))}, [])
    then.set_epoch(4)
    then.asked, then.order = 7, []
    state = elsewhere.state_dict(roots)
    assert [*state.values()] == [{"stage": 5}]
    SetElsewhere([ByAttribute()], {"data": DataLoader(Subset(now, [0]))}, []).put(state, None)
    assert (now.stage, now.asked, len(now.order)) == (5, 0, 12)
    now = Samples()
    SetElsewhere([OfALayer()], {"data": DataLoader(Subset(now, [0]))}, []).put(state, None)
    assert now.stage == 0


def test_where_no_hook_sets_anything_nothing_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.checkpoint.set_elsewhere.reachable", None)
    assert SetElsewhere([kit.Tiny(), leyden.callbacks.ModelCheckpoint()], {"data": kit.ones(1)}, []).state_dict({}) == {}


def test_tensors_of_two_devices_are_not_the_same_bits() -> None:
    assert not same_bits(torch.zeros(2), torch.zeros(2, device="meta"))
    assert not same_bits([torch.zeros(2, device="meta")], [torch.zeros(2)])
