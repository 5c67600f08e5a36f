"""What one of two real processes does alone while the other waits for it: it is right, or a named error on both."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import kit
import pytest
import torch
from real_processes import outcomes_together, together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.distributed import unforeseen
from leyden.errors import ConflictingOptions, InvalidReturn, MetricsDiffer, ProcessFailed, Unsupported
from leyden.strategies import DDPStrategy


class Sometimes(nn.Module):
    """Gives no loss in a batch, of which nothing is seen in the code of ``training_step``."""

    def __init__(self, skipped: set[tuple[int, int]]) -> None:
        super().__init__()
        self.skipped, self.rank, self.batch = skipped, 0, -1
        self.layer = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Any:
        self.batch += 1
        return None if (self.rank, self.batch) in self.skipped else self.layer(x).square().mean()


class Net(leyden.LightningModule):
    def __init__(self, *skipped: tuple[int, int]) -> None:
        super().__init__()
        self.loss = Sometimes(set(skipped))

    def on_train_start(self) -> None:
        self.loss.rank = self.global_rank

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch[0])
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


class Seen(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": None if (self.global_rank, batch_idx) == (1, 2) else super().training_step(batch, batch_idx)}


class ByHand(Net):
    def __init__(self, *skipped: tuple[int, int], times: int = 1, named: bool = True) -> None:
        super().__init__(*skipped)
        self.automatic_optimization = False
        self.times, self.named = times, named

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        for _ in range(self.times):
            loss = self.loss(batch[0])
            if loss is not None:
                self.manual_backward(loss) if self.named else loss.backward()
        optimizer.step()


class Two(Net):
    def training_step(self, batch: Any, batch_idx: int, optimizer_idx: int) -> Any:
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([each], 0.1) for each in self.parameters()]


class Short(DataLoader[Any]):
    """Ends after three of its four batches on the second process."""

    def __iter__(self) -> Any:
        for number, batch in enumerate(super().__iter__()):
            if number == 3 and torch.distributed.is_initialized() and torch.distributed.get_rank() == 1:
                return
            yield batch


def collated(batch: list[tuple[Tensor]]) -> Any:
    x = torch.stack([sample[0] for sample in batch])
    return None if (x[:, 0] == 9 / 16).any() else [x]  # the third batch of the second process


def samples(size: int, kind: Any = DataLoader, **options: Any) -> DataLoader[Any]:
    loader: DataLoader[Any] = kind(TensorDataset(torch.arange(48.0).view(16, 3)[:, [0, 0, 0]] / 48), size, **options)
    return loader


def fitted(module: leyden.LightningModule, loader: Any, **options: Any) -> tuple[dict[str, Tensor], int]:
    unforeseen.PATIENCE = 0.3
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    run = kit.trainer(**options)
    run.fit(module, loader)
    return kit.whole_weights(run), run.global_step


ALONE: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no loss": (lambda: Net((1, 2)), samples, {}, "gave no loss for batch 2 of epoch 0"),
    "no loss, sharded": (lambda: Net((1, 2)), samples, {"strategy": "fsdp"}, "gave no loss for batch 2 of epoch 0"),
    "no loss in a window": (lambda: Net((1, 2)), samples, {"accumulate_grad_batches": 4}, "gave no loss for batch 2 of epoch 0"),
    "no batch": (Net, lambda size: samples(size, collate_fn=collated), {}, "or the loader gave None"),
    "no backward": (lambda: ByHand((1, 2)), samples, {}, "manual_backward 0 times for batch 2"),
    "one backward of two": (lambda: ByHand((1, 2), times=2), samples, {}, "manual_backward 1 times for batch 1"),
    "no backward, sharded": (lambda: ByHand((1, 2)), samples, {"strategy": "fsdp"}, "manual_backward 0 times for batch 2"),
    "an early end": (Net, lambda size: samples(size, Short), {"use_distributed_sampler": False}, "ended after 3 batches, before"),
}


def alone(name: str) -> None:
    make, data, options, _ = ALONE[name]
    fitted(make(), data(2), devices=2, **options)


@pytest.mark.parametrize("name", ALONE)
def test_it_is_an_error_on_both(name: str) -> None:
    first, second = outcomes_together(2, alone, name)
    assert isinstance(second, Unsupported), second
    assert ALONE[name][3] in str(second)
    assert " on process 1, and no other one has ended its step in 0.3 seconds" in str(second)
    assert isinstance(first, ProcessFailed), first


def allowed() -> dict[str, Any]:
    found: dict[str, Any] = {
        "both": fitted(Net((0, 1), (1, 1)), samples(2), devices=2, accumulate_grad_batches=2),
        "both, sharded": fitted(Net((0, 1), (1, 1)), samples(2), devices=2, accumulate_grad_batches=2, strategy="fsdp"),
        "both, by hand": fitted(ByHand((0, 1), (1, 1)), samples(2), devices=2),
        "seen": fitted(Seen(), samples(2), devices=2),
    }
    with pytest.warns(match="None for batch 2 .* on process 1") if torch.distributed.get_rank() else nullcontext():
        found["no batch"] = fitted(Seen(), samples(2, collate_fn=collated), devices=2)
    for name, module, strategy, error in (
        ("by hand", ByHand(), DDPStrategy(static_graph=True), ConflictingOptions),
        ("two", Two(), DDPStrategy(static_graph=True), ConflictingOptions),
        ("plain backward", ByHand(named=False), "ddp", Unsupported),
    ):
        with pytest.raises(error) as raised:
            fitted(module, samples(2), devices=2, strategy=strategy)
        found[name] = str(raised.value)
    return found


def test_what_all_do_is_right_and_what_cannot_be_is_named() -> None:
    found = together(2, allowed)[0]
    one = fitted(Net((0, 1)), samples(4), accumulate_grad_batches=2)
    for name in ("both", "both, sharded"):
        assert found[name][1] == one[1] == 2
        torch.testing.assert_close(found[name][0], one[0])
    expected, steps = fitted(ByHand((0, 1)), samples(4))
    torch.testing.assert_close(found["both, by hand"][0], expected)
    assert found["both, by hand"][1] == steps
    torch.testing.assert_close(found["seen"][0], found["no batch"][0])
    assert "static_graph=True says that all backwards are the same, and manual optimization has any number" in found["by hand"]
    assert "and the 2 optimizers have any number" in found["two"]
    assert "took a step, and has not called self.manual_backward" in found["plain backward"]


def logs_later(rank: int) -> None:
    """From batch 2 on ``rank`` logs a value of all processes, of which the rows before knew nothing."""

    class Logs(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx >= 2 and rank in (self.global_rank, 2):
                self.log("late", 1.0, sync_dist=True)
            return super().training_step(batch, batch_idx)

    fitted(Logs(), samples(2), devices=2, log_every_n_steps=1)


@pytest.mark.parametrize("rank", [1, 2])
def test_a_name_of_all_that_comes_later(rank: int) -> None:
    first, second = outcomes_together(2, logs_later, rank)
    if rank == 2:  # both
        assert (first, second) == (None, None)
        return
    assert isinstance(second, MetricsDiffer)
    assert "has 'late' with sync_dist=True, unlike the row before, on process 1, and no other one has come to such" in str(second)
    assert isinstance(first, ProcessFailed)


def leaves_out() -> None:
    net = Net()
    net.head = nn.Linear(3, 2)
    fitted(net, samples(2), devices=2)


def test_parameters_without_a_gradient_are_named() -> None:
    for rank, error in enumerate(outcomes_together(2, leaves_out)):
        assert isinstance(error, InvalidReturn | ProcessFailed), error
        assert "did not depend on head.weight, head.bias of Net on process" in str(error), rank
        assert "strategy='ddp_find_unused_parameters_true'" in str(error)
