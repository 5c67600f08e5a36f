"""What layers and callbacks hold that tells its own state goes on, and what cannot be kept, or put back, is said by name."""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import leyden
from leyden.errors import LeydenWarning, PossibleUserWarning
from leyden.testing import Recorder

DATA = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))


class Base(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        self.begin()

    def begin(self) -> None: ...

    def term(self) -> Any:
        return 0.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss: Tensor = (self.net(batch[0]) - self.term()).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), 0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(DATA), 3, shuffle=True)


def follow(teacher: nn.Module, net: nn.Module) -> float:
    with torch.no_grad():
        for one, other in zip(teacher.parameters(), net.parameters(), strict=True):
            one.lerp_(other, 0.3)
        return float(teacher(DATA).mean())


class TeacherInAList(Base):
    def begin(self) -> None:
        self.teachers = [copy.deepcopy(self.net).requires_grad_(False)]

    def term(self) -> Any:
        return follow(self.teachers[0], self.net)


class HiddenTeacher(Base):
    def begin(self) -> None:
        object.__setattr__(self, "teacher", copy.deepcopy(self.net))

    def term(self) -> Any:
        return follow(self.teacher, self.net)


class Mean:
    """A running mean of the weights."""

    def __init__(self, net: nn.Module) -> None:
        self.held, self.count = [each.detach().clone() for each in net.parameters()], 0

    def update(self, net: nn.Module) -> Tensor:
        self.count += 1
        for mean, each in zip(self.held, net.parameters(), strict=True):
            mean.lerp_(each.detach(), 1 / (self.count + 1))
        return torch.stack([each.sum() for each in self.held]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held, self.count = [each.clone() for each in state["held"]], state["count"]


class MeanInADict(Base):
    def begin(self) -> None:
        self.means = {"weights": Mean(self.net)}

    def term(self) -> Any:
        return self.means["weights"].update(self.net)


class SchedulersByHand(Base):
    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), 0.1)
        self.decay, self.warm = ExponentialLR(optimizer, 0.8), LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 5))
        return optimizer

    def on_train_batch_end(self, *_: Any) -> None:
        self.warm.step()

    def on_train_epoch_end(self) -> None:
        self.decay.step()


class OptimizerOfItsOwn(Base):
    def begin(self) -> None:
        self.automatic_optimization = False
        self.own = Adam(self.net.parameters(), 0.05)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        self.scales: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.own.zero_grad()
        self.scaler.scale(self.net(batch[0]).square().mean()).backward()
        self.scaler.step(self.own)
        self.scaler.update()
        self.log("scale", self.scaler.get_scale(), on_step=True)

    def configure_optimizers(self) -> None:
        return None


class SharedTensor(Base):
    """A sampler draws by a tensor that the module changes."""

    def begin(self) -> None:
        self.weights = torch.ones(12, dtype=torch.float64)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(DATA), 3, sampler=WeightedRandomSampler(self.weights, 12))

    def on_train_epoch_end(self) -> None:
        self.weights[:6] += 5.0


KINDS = [TeacherInAList, HiddenTeacher, MeanInADict, SchedulersByHand, OptimizerOfItsOwn, SharedTensor]


def fit(kind: type[Base], path: Path, cut: int | None = None, seed: int = 0) -> tuple[list[Tensor], Any]:
    """A process that trains to the end, or saves and dies after so many batches, or goes on from there (a negative number)."""

    def end(run: Any, *_: Any) -> None:
        if run.leyden_fit.progress.batches == cut:
            run.save_checkpoint(path)
            raise kit.Crash

    torch.manual_seed(seed)
    module, run = kind(), kit.trainer(Recorder(on_train_batch_end=end), max_epochs=3)
    with contextlib.suppress(kit.Crash):
        run.fit(module, ckpt_path=path if cut is not None and cut < 0 else None)
    return list(module.net.parameters()), run.callback_metrics.get("scale")


@pytest.mark.filterwarnings("ignore:.*of layers, into which torch does not look|.*returned None. training runs without")
@pytest.mark.parametrize("kind", KINDS)
def test_what_tells_its_state_goes_on(kind: type[Base], tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    weights, scale = fit(kind, path)
    for cut in (2, 9):
        fit(kind, path, cut)
        resumed = fit(kind, path, -1, seed=9)
        assert all(map(torch.equal, resumed[0], weights)), cut
        assert resumed[1] == scale


def test_a_frozen_teacher_and_a_wrapper_of_the_layers_take_no_room(tmp_path: Path) -> None:
    class Wrapped(Base):
        def begin(self) -> None:
            self.others = [copy.deepcopy(self.net).requires_grad_(False), nn.Sequential(self.net, nn.ReLU())]

    fit(Wrapped, tmp_path / "a.ckpt", 2)
    assert torch.load(tmp_path / "a.ckpt", weights_only=False)["leyden"]["processes"][0]["drift"]["held"] == {}


def test_what_does_not_fit_is_named_and_stays(tmp_path: Path) -> None:
    class Other(MeanInADict):
        def begin(self) -> None:
            super().begin()
            self.means["weights"].load_state_dict = self.refuse  # type: ignore[method-assign]

        def refuse(self, state: Any) -> None:
            raise ValueError("not mine")

    fit(MeanInADict, tmp_path / "a.ckpt", 2)
    with pytest.warns(LeydenWarning, match=r"means.weights.load_state_dict failed .*ValueError: not mine.* stays as"):
        fit(Other, tmp_path / "a.ckpt", -1)


def test_what_the_run_asks_itself_and_what_leads_nowhere_is_left_alone(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    told: list[str] = []

    class Own(leyden.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"a": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            told.append("callback")

    class Data(leyden.LightningDataModule):
        def state_dict(self) -> dict[str, Any]:
            return {"a": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            told.append("data")

    class Holds(Base):
        def begin(self) -> None:
            self.callback, self.data = Own(), Data()
            self.file = io.StringIO()
            self.schedules: Any = None

        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), 0.1)
            self.schedules = [ExponentialLR(optimizer, 0.9)]
            return [optimizer], self.schedules

        def configure_callbacks(self) -> Any:
            return [self.callback]

    fit(Holds, tmp_path / "a.ckpt", 2)
    held = torch.load(tmp_path / "a.ckpt", weights_only=False)["leyden"]["processes"][0]["drift"]["held"]
    fit(Holds, tmp_path / "a.ckpt", -1)
    assert (held, told, [str(each.message) for each in recwarn]) == ({}, ["callback"], [])


def test_an_iterator_is_named_before_training(tmp_path: Path) -> None:
    class Cycles(Base):
        def on_train_start(self) -> None:
            self.targets = itertools.cycle([0.1, 0.5])

    with pytest.warns(PossibleUserWarning, match=r"targets is an iterator \(cycle\): no checkpoint can hold how far it is"):
        fit(Cycles, tmp_path / "a.ckpt")


def test_a_deque_that_may_become_too_long_for_a_file_is_named_before_training(tmp_path: Path) -> None:
    class Replays(Base):
        def begin(self) -> None:
            self.short: Any = collections.deque(maxlen=4096)
            self.memory = SimpleNamespace(rows=collections.deque(maxlen=50_000))

    said = r"^memory.rows is a deque of up to 50000 items. While it has more than 4096, a checkpoint does not hold it"
    with pytest.warns(PossibleUserWarning, match=said) as seen:
        fit(Replays, tmp_path / "a.ckpt")
    assert len(seen) == 1


def test_hooks_of_layers_that_training_registered_are_named(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    class Hooked(Base):
        early = False

        def double(self, *given: Any) -> Any:
            return given[-1] * 2

        def on_train_start(self) -> None:
            if self.early:
                self.net[0].register_forward_hook(self.double)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1 and not self.early:
                self.net[0].register_forward_hook(self.double)

    class Again(Hooked):
        early = True

    fit(Hooked, tmp_path / "a.ckpt", 6)
    fit(Again, tmp_path / "a.ckpt", -1)
    assert not recwarn.list
    with pytest.warns(
        LeydenWarning, match=r"the layer 'net.0' had 1 forward or backward hooks .* has 0 now: no file can hold them"
    ):
        fit(Hooked, tmp_path / "a.ckpt", -1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("swap", "replaced the layer 'net.1'.* a ReLU then, and is a Tanh now"),
        ("add", "added the layer 'more'.* a Dropout then, and is not there now"),
    ],
)
def test_layers_that_training_replaced_are_named(change: str, said: str, tmp_path: Path) -> None:
    class Changed(Base):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1 and change == "swap":
                self.net[1] = nn.ReLU()
            elif self.current_epoch == 1:
                self.more = nn.Dropout(0.5)

    fit(Changed, tmp_path / "a.ckpt", 6)
    with pytest.warns(LeydenWarning, match=said):
        fit(Changed, tmp_path / "a.ckpt", -1)
    fit(type("Lazy", (Base,), {"begin": lambda self: setattr(self, "net", nn.LazyLinear(1))}), tmp_path / "b.ckpt", 6)
    fit(type("Lazy", (Base,), {"begin": lambda self: setattr(self, "net", nn.LazyLinear(1))}), tmp_path / "b.ckpt", -1)
