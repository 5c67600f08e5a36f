"""What a state_dict does not hold comes back as training left it: buffers, plain tensors and numbers, modes."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import kit
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

import leyden
from leyden.checkpoint.drift import Drift


class Cut(Exception):
    """The run ends here, as by a kill."""


class Base(leyden.LightningModule):
    centre: Tensor | None

    def __init__(self, cut: int | None, path: Path) -> None:
        super().__init__()
        self.net = nn.Linear(4, 8)
        self.cut, self.path = cut, path
        self.begin()

    def begin(self) -> None:
        self.register_buffer("centre", torch.zeros(8), persistent=False)

    def move(self, hidden: Tensor) -> None:
        raise NotImplementedError

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        hidden = self.net(batch)
        self.move(hidden.detach())
        centre = getattr(self, "centre", None)
        loss: Tensor = (hidden - (0 if centre is None else centre.reshape(-1, 8).mean(0))).pow(2).mean()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step == self.cut:
            self.trainer.save_checkpoint(self.path)
            raise Cut

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class InPlace(Base):
    def move(self, hidden: Tensor) -> None:
        self.centre.mul_(0.9).add_(hidden.mean(0))  # type: ignore[union-attr]  # it is there


class ThroughData(Base):
    def move(self, hidden: Tensor) -> None:
        self.centre.data.mul_(0.9).add_(hidden.mean(0))  # type: ignore[union-attr]  # it is there


class Replaced(Base):
    def move(self, hidden: Tensor) -> None:
        self.centre = self.centre * 0.9 + hidden.mean(0)  # type: ignore[operator]  # it is there


class Grows(Base):
    def begin(self) -> None:
        self.register_buffer("centre", torch.zeros(1, 8), persistent=False)

    def move(self, hidden: Tensor) -> None:
        self.centre = torch.cat([self.centre, hidden])[-20:]  # type: ignore[list-item]  # it is there


class Late(Base):
    def begin(self) -> None:
        pass

    def move(self, hidden: Tensor) -> None:
        if not hasattr(self, "centre"):
            self.register_buffer("centre", hidden.mean(0), persistent=False)


class NoneFirst(Base):
    def begin(self) -> None:
        self.register_buffer("centre", None, persistent=False)

    def move(self, hidden: Tensor) -> None:
        if self.centre is None:
            self.centre = hidden.mean(0)


class Gone(Base):
    def begin(self) -> None:
        self.register_buffer("centre", torch.ones(8), persistent=False)

    def move(self, hidden: Tensor) -> None:
        if self.global_step > 1:
            self.centre = None


class Expanded(Base):
    def begin(self) -> None:
        self.register_buffer("centre", torch.zeros(1).expand(8), persistent=False)

    def move(self, hidden: Tensor) -> None:
        self.centre = (self.centre[:1] * 0.9 + hidden.mean()).expand(8)  # type: ignore[index]  # it is there


class Tensorial(Base):
    """A plain attribute, and no buffer."""

    def begin(self) -> None:
        self.centre = torch.zeros(8)

    move = Replaced.move


class TensorialInPlace(Tensorial):
    move = InPlace.move


class Annealed(Base):
    """Numbers with a fraction: of a layer, of the class, and one that the first epoch's start makes."""

    weight = 1.0

    def begin(self) -> None:
        self.centre = None
        self.drop = nn.Dropout(0.1)

    def on_train_epoch_start(self) -> None:
        self.drop.p = 0.5 if self.current_epoch else 0.3
        self.weight = 0.5 if self.current_epoch else 2.0
        self.late = self.weight / 3

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.drop(self.net(batch)).pow(2).mean() * self.weight + self.net.bias.sum() * self.late
        return loss


class Together(Base):
    """A state that is passed on as a pair, a dict of weights beside what is no number, a list that is rolled, an array."""

    def begin(self) -> None:
        self.pair: Any = None
        self.mean: float | None = None
        self.weights = {"a": 1.0, "b": [0.5, torch.zeros(8)], "name": "x"}
        self.newest = [torch.zeros(8) for _ in range(3)]
        self.array, self.number = np.zeros(8), np.float64(1)
        self.record: list[float] = []

    def move(self, hidden: Tensor) -> None:
        weights: Any = self.weights
        self.pair = (hidden.mean(0), (hidden.std(0),))
        self.mean = hidden.mean().item() if self.mean is None else self.mean * 0.9 + hidden.mean().item()
        weights["a"] *= 0.9
        weights["b"][1] = weights["b"][1] * 0.5 + hidden.mean(0)
        self.newest = [*self.newest[1:], hidden.mean(0)]
        self.array += hidden.mean(0).numpy()
        self.number = np.float64(self.number * 0.9)
        self.record.append(self.mean)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        pair, mean = self.pair, self.mean
        hidden = self.net(batch)
        self.move(hidden.detach())
        known = 0 if pair is None or mean is None else pair[0] + pair[1][0] + mean
        weights: Any = self.weights
        target = torch.stack(self.newest).mean(0) + torch.from_numpy(self.array).float() + weights["b"][1] + known
        loss: Tensor = (hidden - target).pow(2).mean() * weights["a"] * float(self.number)
        return loss


class Meter:
    """Useless without the number of those that it added, which is whole."""

    def __init__(self) -> None:
        self.total, self.number, self.ready = 0.0, 0, False

    def add(self, value: float) -> float:
        self.total, self.number, self.ready = self.total + value, self.number + 1, True
        return self.total / self.number


@dataclass
class Pair:
    beta: float = 1.0
    mean: Tensor | None = None


class State(NamedTuple):
    mean: Tensor
    spread: Tensor


class OfOthers(Base):
    """In an object of the user's own, a dataclass, a namespace, named tuples, deques, ordered and default dicts."""

    def begin(self) -> None:
        self.meter, self.held, self.space = Meter(), Pair(), SimpleNamespace(weight=1.0)
        self.state = State(torch.zeros(8), torch.zeros(8))
        self.newest: deque[Any] = deque(maxlen=2)
        self.sums, self.ordered = defaultdict(float), OrderedDict(a=1.0)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        hidden = self.net(batch)
        now = hidden.detach()
        self.meter.add(now.mean().item())
        self.held.beta *= 0.9
        self.held.mean = now.mean(0) if self.held.mean is None else self.held.mean * 0.5 + now.mean(0)
        self.space.weight *= 0.95
        self.state = State(self.state.mean * 0.5 + now.mean(0), now.std(0))
        self.newest.append(now.mean(0))
        self.sums["a"] += now.mean().item()
        self.ordered["a"] *= 0.9
        target = self.state.mean + self.state.spread + sum(self.newest) + self.held.mean + self.sums["a"]
        scale = (1 + self.meter.add(0.0)) * self.held.beta * self.space.weight * self.ordered["a"]
        loss: Tensor = (hidden - target).pow(2).mean() * scale
        return loss


class InContainers(Base):
    """Deques of named tuples, and what is to be found out yet, inside of dicts, also of a default dict and of an object."""

    def begin(self) -> None:
        self.newest: Any = {"means": deque(maxlen=2), "deep": {"sums": deque([torch.zeros(8)], maxlen=3)}}
        self.by_turn: Any = defaultdict(lambda: deque(maxlen=2))
        self.hidden: Any = {"pair": None, "best": None, "deep": {"mean": None}}
        self.memory = SimpleNamespace(rows=deque(maxlen=4))
        self.same = self.newest["means"]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        hidden = self.net(batch)
        now = hidden.detach().mean(0)
        self.newest["means"].append(now)
        self.newest["deep"]["sums"].append(now * 2)
        self.by_turn[batch_idx % 2].append(now.mean().item())
        self.memory.rows.append(State(now, now + 1))
        pair = self.hidden["pair"]
        self.hidden["pair"] = (now, now) if pair is None else (pair[0] * 0.5 + now, pair[1])
        self.hidden["best"] = min(self.hidden["best"] or 9.0, now.mean().item())
        self.hidden["deep"]["mean"] = now if self.hidden["deep"]["mean"] is None else self.hidden["deep"]["mean"] * 0.5 + now
        assert self.same is self.newest["means"]
        target = sum([*self.same, *self.newest["deep"]["sums"]]) + sum(row.mean * row.spread for row in self.memory.rows)
        target = target + sum(sum(each) for each in self.by_turn.values()) + self.hidden["pair"][0] + self.hidden["pair"][1]
        loss: Tensor = (hidden - target - self.hidden["deep"]["mean"] * self.hidden["best"]).pow(2).mean()
        return loss


class Rested(Base):
    """A part of it is set into eval mode on the way; validation knows nothing of that."""

    def begin(self) -> None:
        self.drop = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5))

    def on_train_epoch_start(self) -> None:
        self.drop[1].train(self.current_epoch > 0)
        self.drop[0].train(self.current_epoch == 0)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.drop(self.net(batch)).pow(2).mean()
        return loss


def fit(kind: type[Base], path: Path, cut: int | None = None, resume: bool = False) -> list[Tensor]:
    leyden.seed_everything(0)
    module = kind(cut, path)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = leyden.Trainer(max_epochs=2, logger=False, accelerator="cpu", **quiet)
    data: Any = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
    with suppress(Cut):
        trainer.fit(module, DataLoader(data, 4), ckpt_path=path if resume else None)
    return list(module.parameters())


BUFFERS = [InPlace, ThroughData, Replaced, Grows, Late, NoneFirst, Gone, Expanded]
KINDS = [*BUFFERS, Tensorial, TensorialInPlace, Annealed, Together, OfOthers, InContainers, Rested]


@pytest.mark.parametrize("kind", KINDS)
def test_what_training_changes(kind: type[Base], tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    whole = fit(kind, path)
    for cut in (1, 4):
        fit(kind, path, cut=cut)
        assert all(map(torch.equal, fit(kind, path, resume=True), whole)), cut


def test_what_is_as_it_was_is_not_kept() -> None:
    module = nn.Module()
    for name, buffer in {"a": torch.ones(3), "b": torch.zeros(0), "c": torch.ones((), dtype=torch.bfloat16)}.items():
        module.register_buffer(name, buffer, persistent=False)
    drift = Drift(module)
    assert not any(drift.state_dict(module).values())
    module.c = module.c.to(torch.float32)
    assert list(drift.state_dict(module)["buffers"]) == ["c"]


def test_a_part_that_was_thawed_and_pruned_since_the_beginning_is_thawed_again() -> None:
    def frozen() -> nn.Linear:
        return nn.Linear(2, 1).requires_grad_(False)

    first, second = frozen(), frozen()
    drift, other = Drift(first), Drift(second)
    prune.identity(first, "weight")
    first.requires_grad_(True)
    state = drift.state_dict(first)
    other.load_state_dict(second, state)  # before its masks are there, or after
    assert second.weight.requires_grad
    masked = frozen()
    prune.identity(masked, "weight")
    other.load_state_dict(masked, state)
    assert masked.weight_orig.requires_grad


def test_modes_of_a_validation_are_not_taken_for_training_s(tmp_path: Path) -> None:
    class Validated(Rested):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.trainer.save_checkpoint(tmp_path / "inside.ckpt")

    module = Validated(None, tmp_path)
    data: Any = torch.ones(8, 4)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = leyden.Trainer(max_epochs=1, enable_checkpointing=False, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, DataLoader(data, 4), DataLoader(data, 4))
    content = torch.load(tmp_path / "inside.ckpt", weights_only=True)
    assert content["leyden"]["processes"][0]["drift"]["modes"] == {"drop.1": False}


def test_what_is_another_kind_of_thing_today_is_left_as_it_is() -> None:
    first, second = nn.Sequential(nn.Dropout(0.5)), nn.Sequential(nn.Dropout(0.5))
    first.table, first.rate = torch.zeros(3), 0.5
    drift = Drift(first)
    first.table, first.rate, first[0].p = torch.ones(3), 0.25, 0.75
    state = drift.state_dict(first)
    assert sorted(state["numbers"]) == [".rate", ".table", "0.p"]
    second.table, second.rate = torch.zeros(4), "a text"
    Drift(second).load_state_dict(second, state)
    assert (second.table.tolist(), second.rate, second[0].p) == ([0.0] * 4, "a text", 0.75)
    Drift(second).load_state_dict(second, {**state, "numbers": {"gone.p": 0.5}})


def test_of_a_dict_what_training_changedis_kept_and_no_setting() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    first.weights, second.weights = {"annealed": 1.0, "set": 1.0}, {"annealed": 1.0, "set": 2.0}
    shared = second.weights
    drift = Drift(first)
    first.weights["annealed"] = 0.5
    Drift(second).load_state_dict(second, drift.state_dict(first))
    assert second.weights is shared
    assert shared == {"annealed": 0.5, "set": 2.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [0.5]),  # a record
        ([0.5], [0.5, 1.0]),
        (None, torch.zeros(1 << 23)),  # what a step left for somebody to look at
        (None, torch.ones(2, requires_grad=True)),
        (None, [0.5] * 5000),
        ((1, 2), (1, 3)),
        ({"a": 1}, {"a": 2}),
        (np.zeros(2), np.ones(3)),
    ],
)
def test_records_counts_and_large_things_are_not_followed(before: Any, after: Any) -> None:
    module = nn.Linear(2, 1)
    module.held = before
    drift = Drift(module)
    module.held = after
    assert drift.state_dict(module)["numbers"] == {}


def test_an_object_that_holds_something_else_by_now_has_its_numbers_alone() -> None:
    """A flag tells of what is not kept: a file that was opened, say."""
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    first.held, second.held = (SimpleNamespace(file=None, opened=False, rate=1.0) for _ in range(2))
    drift = Drift(first)
    first.held.opened, first.held.rate, first.held.file = True, 0.5, object()
    Drift(second).load_state_dict(second, drift.state_dict(first))
    assert (second.held.opened, second.held.rate) == (False, 0.5)


# -- callbacks and optimizers


class Damped(torch.optim.SGD):
    """Its own attributes decide how far it goes."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.beta, self.steps = 1.0, 0

    def step(self, closure: Any = None) -> Any:
        self.beta, self.steps = self.beta * 0.9, self.steps + 1
        self.param_groups[0]["lr"] = 0.1 * self.beta / self.steps
        return super().step(closure)


class Mean(leyden.Callback):
    """Running means of the weights, in every form; the batch is moved by them."""

    def __init__(self) -> None:
        self.late: dict[str, Tensor] = {}
        self.rate, self.told = 1.0, 0

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.listed = [each.data.clone() for each in pl_module.parameters()]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.copied, self.here = copy.deepcopy(pl_module.net), pl_module.net
        self.start = 0.5

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.told += 1
        means = self.listed[0].mean() + sum(each.sum() for each in self.late.values())
        batch.add_(self.copied(batch).mean().detach() * self.rate + means.detach() + self.start)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rate, self.start = self.rate * 0.9, self.start * 0.9
        for mean, now in zip(self.listed, pl_module.parameters(), strict=True):
            mean.data.mul_(0.9).add_(now.data / 10)
        for mean, now in zip(self.copied.parameters(), pl_module.net.parameters(), strict=True):
            mean.data.mul_(0.9).add_(now.data / 10)
        for name, now in pl_module.named_parameters():
            self.late[name] = self.late.get(name, now.detach()) * 0.9


class Tells(Mean):
    """One that tells its state is asked for nothing else."""

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.told}


def averaged(path: Path, mean: Mean, cut: int | None = None, resume: bool = False) -> list[Tensor]:
    leyden.seed_everything(0)
    module = Tensorial(cut, path)
    module.configure_optimizers = lambda: Damped(module.parameters())  # type: ignore[method-assign]  # as a user does
    data: Any = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))
    with suppress(Cut):
        kit.trainer(mean, max_epochs=2).fit(module, DataLoader(data, 4), ckpt_path=path if resume else None)
    return list(module.parameters())


def test_what_callbacks_and_optimizers_keep_in_attributes(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    whole = averaged(path, Mean())
    for cut in (1, 4):
        averaged(path, Mean(), cut=cut)
        mean = Mean()
        assert all(map(torch.equal, averaged(path, mean, resume=True), whole)), cut
        assert mean.told == 6 - cut  # a count is this process's own


def test_a_callback_that_tells_its_state_keeps_that_alone(tmp_path: Path) -> None:
    averaged(tmp_path / "a.ckpt", Tells(), cut=1)
    numbers = torch.load(tmp_path / "a.ckpt", weights_only=True)["leyden"]["processes"][0]["drift"]["numbers"]
    assert sorted(numbers) == [".centre", "optimizer 0.beta", "optimizer 0.steps"]


def test_settings_that_a_hook_makes_as_training_starts_are_the_new_command_s(tmp_path: Path) -> None:
    seen: list[float] = []

    def run(rate: float, cut: int | None, resume: bool) -> None:
        class Sets(leyden.Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                self.rate = rate

            def on_train_batch_end(self, *_: Any) -> None:
                seen.append(self.rate)

        module = Tensorial(cut, tmp_path / "a.ckpt")
        data: Any = torch.ones(8, 4)
        with suppress(Cut):
            kit.trainer(Sets()).fit(module, DataLoader(data, 4), ckpt_path=module.path if resume else None)

    run(0.5, 1, False)
    run(0.25, None, True)
    assert seen == [0.5, 0.25]
