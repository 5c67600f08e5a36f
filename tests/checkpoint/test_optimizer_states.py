"""The state of any optimizer and scheduler comes back as what it was, or is named."""

from __future__ import annotations

import warnings
from collections import deque
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, StepLR
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

import leyden
from leyden.checkpoint import settings
from leyden.checkpoint.format import decode, encode
from leyden.checkpoint.optimizer_states import fitted, loadable, restore, scheduler_state
from leyden.errors import CheckpointMismatch, LeydenWarning

DATA = torch.randn(12, 4, generator=torch.Generator().manual_seed(5))


class Module(leyden.LightningModule):
    def __init__(self, make: Any, begin: Any = None) -> None:
        super().__init__()
        self.make, self.begin = make, begin
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        self.register_buffer("centre", torch.zeros(4), persistent=False)
        self.register_buffer("constant", torch.ones(4), persistent=False)

    def on_fit_start(self) -> None:
        if self.begin is not None:
            self.net[0].requires_grad_(False)

    def on_train_epoch_start(self) -> None:
        if self.begin is not None and self.current_epoch == 1:
            self.begin(self)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.centre.mul_(0.9).add_(batch.mean(0))
        return self.net(batch - self.centre).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return self.make(self)


def run(path: Path, make: Any, *, cut: int | None = None, resume: bool = False, begin: Any = None) -> Module:
    leyden.seed_everything(0)
    module = Module(make, begin)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = leyden.Trainer(max_epochs=3, max_steps=cut or -1, logger=False, **quiet)
    trainer.fit(module, DataLoader(DATA, 4, shuffle=True), ckpt_path=path if resume else None)  # type: ignore[arg-type]
    if cut is not None:
        trainer.save_checkpoint(path)
    return module


def same_after_a_cut(path: Path, make: Any, cut: int = 4, begin: Any = None) -> None:
    whole = run(path, make, begin=begin)
    run(path, make, cut=cut, begin=begin)
    resumed = run(path, make, resume=True, begin=begin)
    for one, other in zip([*whole.parameters(), whole.centre], [*resumed.parameters(), resumed.centre], strict=True):
        assert torch.equal(one, other)


class Odd(torch.optim.Optimizer):
    """Keeps a deque, a set, float64 and whole numbers beside parameters of float32, and a string."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state.setdefault("gradients", deque(maxlen=3)).append(parameter.grad.clone())
                state.setdefault("seen", set()).add(len(state["gradients"]))
                state["mean"] = state.get("mean", 0) * 0.9 + parameter.grad.double() / 3
                state["count"] = state.get("count", torch.zeros((), dtype=torch.int64)) + 1
                state.setdefault("text", "as it is")
                assert state["gradients"].maxlen == 3
                assert state["mean"].dtype == torch.float64
                assert state["count"].dtype == torch.int64
                assert state["text"] == "as it is"
                total = sum(state["gradients"]) + state["mean"].float() / state["count"]
                parameter.sub_(group["lr"] * total / len(state["seen"]))
        return loss


class Warmup(LRScheduler):
    """Holds another scheduler, the optimizer under a name of its own, and a bound method."""

    def __init__(self, optimizer: torch.optim.Optimizer, after: LRScheduler) -> None:
        self.after, self.other_name, self.method = after, optimizer, after.get_last_lr
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        if self.last_epoch > 2:
            return self.method()
        return [base * self.last_epoch / 2 for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        if getattr(self, "last_epoch", 0) > 2:
            self.after.step()
        super().step(epoch)


def warming(module: nn.Module) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    scheduler = Warmup(optimizer, StepLR(optimizer, 2))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def sgd(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)


def test_an_optimizer_with_any_state(tmp_path: Path) -> None:
    same_after_a_cut(tmp_path / "a.ckpt", lambda module: Odd(module.parameters(), 0.01))


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_a_scheduler_that_holds_a_scheduler(cut: int, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeydenWarning)  # of the bound method
        same_after_a_cut(tmp_path / "a.ckpt", warming, cut)


def test_what_cannot_be_written_is_named_by_saving_and_by_resuming(tmp_path: Path) -> None:
    def make(module: nn.Module) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        scheduler = StepLR(optimizer, 2)
        scheduler.odd_one_here = make  # type: ignore[attr-defined]
        return [optimizer], [scheduler]

    with pytest.warns(LeydenWarning, match="odd_one_here"):
        run(tmp_path / "a.ckpt", make, cut=4)
    with pytest.warns(LeydenWarning, match=r"StepLR\.odd_one_here.*what this process built is kept"):
        run(tmp_path / "a.ckpt", make, resume=True)


@pytest.mark.parametrize("how", ["generator", "tensor", "named"])
def test_a_group_that_a_hook_adds_at_each_start_of_training_is_there_once(how: str, tmp_path: Path) -> None:
    class Adds(Module):
        def on_train_start(self) -> None:
            last = self.net[2]
            ways: dict[str, Any] = {
                "generator": last.parameters(),
                "tensor": last.weight,
                "named": [(f"net.2.{name}", each) for name, each in last.named_parameters()],
            }
            self.optimizers().add_param_group({"params": ways[how], "lr": 0.01})  # type: ignore[union-attr]

        def configure_optimizers(self) -> Any:
            first = self.net[0]
            named = [(f"net.0.{name}", each) for name, each in first.named_parameters()]
            return torch.optim.Adam(named if how == "named" else first.parameters(), 0.1)

    def fit(most: int, path: Any = None) -> tuple[Module, leyden.Trainer]:
        torch.manual_seed(0)
        module, trainer = Adds(None), kit.trainer(max_epochs=3, max_steps=most)
        trainer.fit(module, DataLoader(DATA, 4, shuffle=True), ckpt_path=path)  # type: ignore[arg-type]
        return module, trainer

    whole, _ = fit(-1)
    fit(4)[1].save_checkpoint(tmp_path / "a.ckpt")
    resumed, trainer = fit(-1, tmp_path / "a.ckpt")
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [2, 1 if how == "tensor" else 2]
    assert all(map(torch.equal, resumed.parameters(), whole.parameters()))
    assert "add_param_group" not in vars(trainer.optimizers[0])


def test_groups_that_were_added_and_parameters_that_were_thawed(tmp_path: Path) -> None:
    def thaw(module: Module) -> None:
        module.net[0].requires_grad_(True)
        optimizer: Any = module.optimizers(False)
        optimizer.add_param_group({"params": list(module.net[0].parameters()), "lr": 0.001})

    same_after_a_cut(tmp_path / "a.ckpt", lambda module: sgd(module.net[2]), cut=4, begin=thaw)
    same_after_a_cut(tmp_path / "b.ckpt", lambda module: sgd(module.net[2]), cut=2, begin=thaw)


def test_a_constant_buffer_takes_no_place(tmp_path: Path) -> None:
    run(tmp_path / "a.ckpt", sgd, cut=4)
    (own,) = torch.load(tmp_path / "a.ckpt", weights_only=True)["leyden"]["processes"]
    assert list(own["drift"]["buffers"]) == ["centre"]


def test_a_trial_run_puts_them_back(tmp_path: Path) -> None:
    def odd_and_warming(module: nn.Module) -> Any:
        optimizer = Odd(module.parameters(), 0.01)
        scheduler = Warmup(optimizer, StepLR(optimizer, 2))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Tries(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            scheduler = trainer.lr_scheduler_configs[0].scheduler
            after = scheduler.after
            with trainer.trial_run(pl_module) as trial:
                for _ in range(2):
                    trial.step(batch)
            assert scheduler.after is after
            assert after.optimizer is trainer.optimizers[0]

    def trained(callbacks: list[Any]) -> Module:
        leyden.seed_everything(0)
        module = Module(odd_and_warming)
        quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = leyden.Trainer(max_epochs=2, logger=False, callbacks=callbacks, **quiet)
        trainer.fit(module, DataLoader(DATA, 4, shuffle=True))  # type: ignore[arg-type]
        return module

    assert all(map(torch.equal, trained([Tries()]).parameters(), trained([]).parameters()))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(), inner, max_size=3)
        | st.builds(deque, st.lists(inner, max_size=3), maxlen=st.integers(0, 4) | st.none())
        | st.sets(st.integers(), max_size=3)
        | st.frozensets(st.text(), max_size=3)
    ),
    max_leaves=8,
)


@given(VALUES)
def test_any_value_of_an_optimizers_state(value: Any) -> None:
    module = nn.Linear(1, 1, bias=False)
    before = torch.optim.SGD(module.parameters(), 0.1)
    before.state[module.weight].update(value=value, step=torch.ones(2, dtype=torch.int64))
    state = decode(encode(before.state_dict()))
    after = torch.optim.SGD(module.parameters(), 0.1)
    after.load_state_dict(loadable(after, state))
    restore(after, state, {}, module)
    assert list(after.state[module.weight]) == ["value", "step"]
    back = after.state[module.weight]["value"]
    assert (type(back), back) == (type(value), value)
    assert getattr(back, "maxlen", None) == getattr(value, "maxlen", None)


@given(VALUES)
def test_any_value_of_a_schedulers_state(value: Any) -> None:
    def made() -> Any:
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
        outer, inner = StepLR(optimizer, 1), StepLR(optimizer, 2)
        outer.held = [inner]  # type: ignore[attr-defined]
        return outer

    before, after = made(), made()
    before.held[0].value = value
    kept: list[str] = []
    inner = after.held[0]
    after.load_state_dict(fitted(decode(encode(scheduler_state(before))), after.state_dict, "StepLR", kept))
    assert after.held == [inner]
    assert inner.value == value
    assert kept == []


class AsInTorch26(SWALR):
    """Its state as torch 2.6 tells it."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "anneal_func": self.anneal_func, "verbose": False}


def test_what_schedulers_of_torch_2_6_keep_besides_neither_warns_nor_is_missed() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    annealing = AsInTorch26(optimizer, swa_lr=0.05)
    assert "anneal_func" not in scheduler_state(annealing)
    settings.check_scheduler(annealing, SWALR(optimizer, swa_lr=0.05).state_dict(), None, "a.ckpt")
    with pytest.raises(CheckpointMismatch, match="without anneal_epochs"):
        settings.check_scheduler(annealing, {"last_epoch": 1, "base_lrs": [0.1]}, None, "a.ckpt")


def test_a_learning_rate_that_is_a_tensor_comes_back_on_its_device() -> None:
    state = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=torch.tensor(0.5)).state_dict()
    there = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    there.param_groups[0]["lr"] = torch.tensor(0.1, device="meta")
    assert loadable(there, state)["param_groups"][0]["lr"].device.type == "meta"
    there.param_groups[0]["lr"] = 0.1
    assert loadable(there, state)["param_groups"] == state["param_groups"]
