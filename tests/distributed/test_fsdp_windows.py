"""Windows of batches where each of several real processes holds a shard of the parameters: one exchange of gradients for all."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from real_processes import outcomes_together, together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.distributed import unforeseen
from leyden.errors import LeydenWarning, ProcessFailed, Unsupported
from leyden.plugins import ShardedCheckpointIO
from leyden.strategies import FSDPStrategy


class Net(leyden.LightningModule):
    """Skips the batches ``skipped`` on all processes, and ``alone`` on the second one."""

    def __init__(self, skipped: tuple[int, ...] = (), alone: int = -1, early: bool = False) -> None:
        super().__init__()
        self.skipped, self.alone, self.early = skipped, alone, early
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        skips_alone = batch_idx == self.alone and self.global_rank == 1
        if skips_alone and self.early:
            return None
        loss = (self.net(batch[0]) - 1).pow(2).mean()
        if skips_alone or batch_idx in self.skipped:
            return None
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.05)


class ByHand(leyden.LightningModule):
    """Two batches a step: their gradients are exchanged once."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        full = batch_idx % 2 == 1
        with optimizer.toggle_model(sync_grad=full):
            self.manual_backward((self.net(batch[0]) - 1).pow(2).mean() / 2)
        if full:
            self.clip_gradients(optimizer, 0.1, "norm")
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), 0.05)


class ResetsFirst(ByHand):
    """Leaves the gradients of a step until the next one."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward((self.net(batch[0]) - 1).pow(2).mean())
        optimizer.step()


class Steady(Net):
    """Has the same gradient in each batch, so that it does not matter whose samples are whose."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([torch.ones(1, 3)], batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.5)


class Saves(leyden.Callback):
    def __init__(self, path: str, batch: int, hook: str = "on_train_batch_end") -> None:
        self.path, self.batch, self.hook = path, batch, hook

    def reach(self, hook: str, run: Any) -> None:
        if hook == self.hook and run.fit_loop.total_batch_idx == self.batch:
            run.save_checkpoint(self.path)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.reach("on_train_batch_end", trainer)

    def on_before_optimizer_step(self, trainer: Any, *_: Any) -> None:
        self.reach("on_before_optimizer_step", trainer)


class NextEpoch(leyden.Callback):
    """Leaves the epoch after some batches: all processes after the same."""

    batches = 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.batches = trainer.fit_loop.total_batch_idx + 1

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 4 else None


class Tries(leyden.Callback):
    """Takes steps that leave no trace, in the middle of a window."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            with trainer.trial_run(pl_module, steps=2) as trial:
                for tried in trial.batches():
                    trial.step(tried)


def samples(count: int, size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(3.0 * count).view(count, 3) / count), size)


Weights = dict[str, Tensor]


def trained(devices: int, size: int, make: Any = Net, *callbacks: Any, strategy: Any = "fsdp", **options: Any) -> Weights:
    torch.manual_seed(3)
    module = make()
    if strategy == "layers":
        strategy = FSDPStrategy(auto_wrap_policy={nn.Linear})
    path = options.pop("ckpt_path", None)
    asked = {"max_epochs": 2, "accumulate_grad_batches": 3, **options}
    run = kit.trainer(*callbacks, devices=devices, strategy=strategy if devices > 1 else "auto", **asked)
    run.fit(module, samples(32, size), ckpt_path=path)
    return kit.whole_weights(run)


CASES: dict[str, tuple[Any, ...]] = {
    "whole": (Net, leyden.Callback, {}),
    "layers": (Net, leyden.Callback, {"strategy": "layers", "gradient_clip_val": 0.1}),
    "skipped by all": (partial(Net, skipped=(2, 3, 4, 5)), leyden.Callback, {}),
    "a trial": (Net, Tries, {}),
    "by hand": (ByHand, leyden.Callback, {"accumulate_grad_batches": 1, "strategy": "layers"}),
}


def exchanged(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    count, reduce = list[Any](), dist.reduce_scatter_single
    dist.reduce_scatter_single = lambda *args, **kwargs: (count.append(args), reduce(*args, **kwargs))[1]
    for case, (make, callback, options) in CASES.items():
        count.clear()
        found[case] = trained(2, 2, make, callback(), **options), len(count)
    leaves = NextEpoch()
    found["left"] = trained(2, 2, Net, leaves, max_epochs=1, accumulate_grad_batches=9), leaves.batches
    bits = []
    for number, (batch, hook, options) in enumerate(CUTS):
        path, asked = f"{folder}/{number}", {**options}
        if asked.pop("folder", False):
            asked["plugins"] = [ShardedCheckpointIO()]
        make = asked.pop("module", Net)
        whole = trained(2, 2, make, Saves(path, batch, hook), **asked)
        bits.append((whole, trained(2, 2, make, ckpt_path=path, **asked)))
    found["bits"] = bits
    trained(2, 2, Net, Saves(f"{folder}/ddp", 4), strategy="ddp")
    for strategy in ("layers", "ddp"):
        trained(2, 2, Steady, Saves(f"{folder}/{strategy} steady", 4), strategy=strategy, max_steps=2)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found[f"one to two {strategy}"] = trained(2, 2, Steady, ckpt_path=f"{folder}/one", strategy=strategy, max_steps=2)
        found["said"] = [str(each.message) for each in said if issubclass(each.category, LeydenWarning)]
    found["ddp to fsdp"] = trained(2, 2, ckpt_path=f"{folder}/ddp")
    trained(2, 2, ResetsFirst, Saves(f"{folder}/resets first", 2), strategy="ddp", accumulate_grad_batches=1)
    found["resets first"] = trained(2, 2, ResetsFirst, ckpt_path=f"{folder}/resets first", accumulate_grad_batches=1)
    found["fsdp to ddp"] = trained(2, 2, ckpt_path=f"{folder}/0", strategy="ddp")
    return found


CUTS: list[tuple[int, str, dict[str, Any]]] = [
    (4, "on_train_batch_end", {}),
    (3, "on_train_batch_end", {"strategy": "layers", "folder": True, "precision": "bf16-mixed"}),
    (5, "on_before_optimizer_step", {}),
    (2, "on_train_batch_end", {"module": ByHand, "accumulate_grad_batches": 1}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("windows"))


@pytest.fixture(scope="module")
def two(folder: str) -> list[dict[str, Any]]:
    trained(1, 2, Steady, Saves(f"{folder}/one", 4), max_steps=2)
    return together(2, exchanged, folder)


def near(expected: Weights, found: Weights) -> bool:
    return expected.keys() == found.keys() and all(
        torch.allclose(value, found[name], atol=2e-6) for name, value in expected.items()
    )


@pytest.mark.parametrize(
    ("case", "exchanges"),
    # 8 batches an epoch in windows of 3: three steps; two layers that are sharded each by itself
    [("whole", 6), ("layers", 12), ("skipped by all", 2), ("a trial", 0), ("by hand", 16)],
)
def test_a_window_is_exchanged_once_and_comes_to_the_numbers_of_one_process(
    case: str, exchanges: int, two: list[dict[str, Any]]
) -> None:
    make, callback, options = CASES[case]
    expected = trained(1, 4, make, callback(), **options)
    assert near(expected, two[0][case][0])
    if exchanges:
        assert [found[case][1] for found in two] == [exchanges, exchanges]


def test_an_epoch_that_is_left_inside_a_window_steps_with_what_is_there(two: list[dict[str, Any]]) -> None:
    (weights, batches), (_, others) = (found["left"] for found in two)
    assert 4 <= batches == others
    assert near(trained(1, 4, max_epochs=1, accumulate_grad_batches=9, limit_train_batches=batches), weights)


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_a_window_that_was_cut_goes_on_to_the_same_bits(number: int, two: list[dict[str, Any]]) -> None:
    whole, again = two[0]["bits"][number]
    assert kit.same(whole, again)


def test_an_open_window_goes_on_with_other_processes_and_strategies(two: list[dict[str, Any]], folder: str) -> None:
    expected = trained(1, 4)
    assert two[0]["said"] == []  # no sample is lost or comes twice
    for way in ("ddp to fsdp", "fsdp to ddp"):
        assert near(expected, two[0][way]), way
    expected = trained(1, 2, Steady, max_steps=2)
    for strategy in ("layers", "ddp"):
        assert near(expected, two[0][f"one to two {strategy}"]), strategy
        assert near(expected, trained(1, 2, Steady, ckpt_path=f"{folder}/{strategy} steady", max_steps=2))


def test_gradients_that_manual_optimization_left_are_reset_by_it_after_a_change_to_shards(two: list[dict[str, Any]]) -> None:
    assert near(trained(1, 4, ResetsFirst, accumulate_grad_batches=1), two[0]["resets first"])


def skips_alone(early: bool) -> None:
    unforeseen.PATIENCE = 0.5
    trained(2, 2, partial(Net, alone=4, early=early), strategy="layers")


@pytest.mark.parametrize(("early", "words"), [(False, "a loss on process 0"), (True, "no other one has ended its step in 0.5")])
def test_a_batch_that_one_process_skips_is_a_named_error(early: bool, words: str) -> None:
    first, second = outcomes_together(2, skips_alone, early)
    assert isinstance(second, Unsupported)
    assert f"training_step returned None on process 1, and {words}" in str(second)
    assert isinstance(first, ProcessFailed)
    assert "process 1 failed" in str(first)
