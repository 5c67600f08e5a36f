"""Training in several real processes with DistributedDataParallel."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any

import kit
import pytest
import torch
from real_processes import together
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from warm_python import python

import leyden
from leyden.callbacks import EMAWeightAveraging
from leyden.errors import ConflictingOptions, Unsupported
from leyden.strategies import DDPStrategy


class Net(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += batch[0][:, 0].tolist()
        loss = self.layer(batch[0]).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", batch[0][:, 0].mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", batch[0][:, 0].mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def rows(count: int) -> Tensor:
    return torch.arange(3.0 * count).view(count, 3) / count


def samples(count: int, size: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(rows(count)), size, **options)


def trained(devices: int, size: int, **options: Any) -> tuple[dict[str, Tensor], list[float], dict[str, float]]:
    """The weights, the samples that this process saw, and the metrics, after a fit."""
    torch.manual_seed(3)
    module = Net()
    run = kit.trainer(devices=devices, max_epochs=2, **options)
    run.fit(module, samples(16, size, shuffle=options.pop("shuffle", False)), samples(5, 1))
    assert run.world_size == devices
    return kit.weights(module), module.seen, {name: float(value) for name, value in run.callback_metrics.items()}


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=str)
def test_two_processes_are_one_with_batches_twice_as_large(options: dict[str, Any]) -> None:
    first, second = together(2, with_options, options)
    whole = with_options({**options, "devices": 1, "size": 4})
    for name, value in whole[0].items():
        assert torch.equal(first[0][name], second[0][name])
        assert torch.allclose(first[0][name], value, atol=1e-6)
    assert sorted(first[1] + second[1]) == sorted(whole[1])
    assert first[2]["loss_epoch"] == second[2]["loss_epoch"]
    assert first[2]["value"] == whole[2]["value"], "each sample of the uneven end counts once"


def with_options(options: dict[str, Any]) -> Any:
    options = dict(options)
    return trained(options.pop("devices", 2), options.pop("size", 2), **options)


def by_hand() -> dict[str, Tensor]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    torch.manual_seed(3)
    module = Net()
    wrapped = DistributedDataParallel(module.layer)
    optimizer = torch.optim.SGD(module.parameters(), 0.1, momentum=0.9)
    mine = rows(16)[dist.get_rank() :: 2]
    for _ in range(2):
        for batch in mine.split(2):
            loss = wrapped(batch).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return kit.weights(module)


def test_the_weights_are_those_of_a_loop_by_hand_bit_for_bit() -> None:
    ours, plain = together(2, with_options, {}), together(2, by_hand)
    assert kit.same(ours[0][0], plain[0])


SCRIPT = """
    import sys, torch, leyden, kit
    from leyden.testing import BoringModel, random_batches

    module = BoringModel()
    run = kit.trainer(devices=2, strategy=sys.argv[1])
    result = run.fit(module, random_batches(4))
    if sys.argv[1] != "ddp" or run.is_global_zero:
        print("done", result.status, result.steps, run.global_step, flush=True)
"""


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "ddp_fork"])
def test_a_script_is_all_that_is_needed(strategy: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("if __name__ == '__main__':\n" + "\n".join(f"    {line}" for line in dedent(SCRIPT).splitlines()))
    paths = os.pathsep.join([str(Path(kit.__file__).parent), str(Path(leyden.__file__).parents[1])])
    done = python(script, strategy, environment={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("done finished 2 2") == 1, done.stdout


def test_a_launcher_of_another_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConflictingOptions, match="asks for 2 processes, and torchrun has started 4"):
        kit.trainer(devices=2, strategy="ddp")


def test_a_script_cannot_be_run_again_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["-c"])
    with pytest.raises(Unsupported, match="ddp_notebook"):
        kit.trainer(devices=2, strategy="ddp").fit(Net(), samples(4, 1))


def test_the_options_of_ddp_reach_it() -> None:
    strategy = DDPStrategy(find_unused_parameters=True, start_method="fork")
    run = kit.trainer(devices=2, strategy=strategy)
    assert run.strategy is strategy
    assert (run.world_size, run.num_devices, run.global_rank) == (2, 2, 0)


class Windows(Net):
    """Two batches make a step, by hand; the gradient of the first is not exchanged, said in one of the ways there are."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.automatic_optimization = way, False
        self.entered: list[bool] = []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        run, full = self.trainer, batch_idx % 2 == 1
        self.entered.append(isinstance(run.model, DistributedDataParallel))
        open_ones = {
            "exchanged": nullcontext,
            "toggle_model": partial(optimizer.toggle_model, sync_grad=False),
            "block_backward_sync": getattr(run.strategy, "block_backward_sync", nullcontext),
            "no_sync": getattr(run.model, "no_sync", nullcontext),
        }
        with nullcontext() if full else open_ones[self.way]():
            self.manual_backward(self.layer(batch[0]).pow(2).mean() / 2)
        if full:
            optimizer.step()
            optimizer.zero_grad()


class OwnDDP(DDPStrategy):
    """Wraps the module as a subclass of Lightning's does."""

    def configure_ddp(self) -> None:  # type: ignore[override]  # Lightning's returns nothing
        super().configure_ddp()
        assert isinstance(self.model, DistributedDataParallel)
        self.model.mark = "mine"  # type: ignore[assignment]  # any attribute


def in_windows(way: str, size: int, **options: Any) -> tuple[dict[str, Tensor], set[bool]]:
    torch.manual_seed(3)
    module = Windows(way)
    run = kit.trainer(**options)
    run.fit(module, samples(16, size), samples(5, 1))
    assert run.model is module
    return kit.weights(module), set(module.entered)


def by_every_way() -> dict[str, Any]:
    asked = kit.trainer(devices=2)
    found: dict[str, Any] = {"before": asked.strategy.broadcast(asked.global_rank + 5)}  # others have started these processes
    for way in ("exchanged", "toggle_model", "block_backward_sync", "no_sync"):
        found[way] = in_windows(way, 2, devices=2, strategy=OwnDDP())
    return found


def test_windows_by_hand_exchange_once_in_every_way() -> None:
    found = together(2, by_every_way)[1]
    expected, _ = in_windows("exchanged", 4)
    assert found.pop("before") == 5
    for way, (weights, entered) in found.items():
        torch.testing.assert_close(weights, expected, msg=way)
        assert entered == {True}


class Normed(leyden.LightningModule):
    """A batch norm's statistics are each process's own while training."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.means = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1)), []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.net(batch[0]).pow(2).mean()  # type: ignore[no-any-return]  # a module's call is Any

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.means.append((self.net[0].running_mean.tolist(), self.net[1].weight.tolist()))

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def evaluated() -> list[Any]:
    fitted, fresh = Normed(), Normed()
    kit.trainer(devices=2, num_sanity_val_steps=0).fit(fitted, samples(8, 2), samples(4, 2))
    averaged = Normed()
    kit.trainer(EMAWeightAveraging(), devices=2, num_sanity_val_steps=0).fit(averaged, samples(8, 2), samples(4, 2))
    in_a_window = Normed()
    often: dict[str, Any] = {"accumulate_grad_batches": 3, "val_check_interval": 1}
    kit.trainer(devices=2, num_sanity_val_steps=0, **often).fit(in_a_window, samples(12, 2), samples(4, 2))
    torch.manual_seed(int(os.environ["RANK"]))
    fresh.net[1].reset_parameters()
    kit.trainer(devices=2).test(fresh, samples(4, 2), verbose=False)
    return [fitted.means, averaged.means, in_a_window.means, fresh.means]


def test_all_processes_evaluate_what_the_first_one_has() -> None:
    first, second = together(2, evaluated)
    assert first == second


class Changing(leyden.LightningModule):
    """Other parameters are trained from the second epoch on than the wrapper was made for."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last, self.how = nn.Linear(3, 2), nn.Linear(2, 1), how
        self.first.requires_grad_(how != "thaws")
        self.scale: Any = 1.0

    def on_train_epoch_start(self) -> None:
        if self.current_epoch != 1 or "window" in self.how:
            return
        if self.how == "adds":
            del self.scale
            self.scale = nn.Parameter(torch.zeros(1) if self.global_rank else torch.ones(1))
            self.optimizers().add_param_group({"params": [self.scale]})
        else:
            self.first.requires_grad_(self.how == "thaws")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.how == "freezes in a window" and (self.current_epoch, batch_idx) == (1, 1):
            self.first.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.last(self.first(batch[0])) * self.scale - 1).pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05)


def changed(devices: int, size: int) -> list[dict[str, Tensor]]:
    found = []
    for how in ("thaws", "freezes", "adds", "freezes in a window"):
        module = Changing(how)
        kit.trainer(devices=devices, max_epochs=3, accumulate_grad_batches=2 if "window" in how else 1).fit(
            module, samples(16, size)
        )
        found.append(kit.weights(module))
    return found


def test_what_is_trained_may_change_in_the_middle_of_a_fit() -> None:
    whole = changed(1, 4)
    assert "scale" in whole[2]
    for first, second, expected in zip(*together(2, changed, 2, 2), whole, strict=True):
        assert kit.same(first, second)
        for name, value in expected.items():
            assert torch.allclose(first[name], value, atol=1e-6), name


class Thawed(Net):
    """What was frozen at the beginning is trained from the second epoch on. Notes what there is of gradients after each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3).requires_grad_(False)
        self.gradients: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        self.first.requires_grad_(self.current_epoch > 0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(self.first(batch[0])).pow(2).mean()

    def on_after_backward(self) -> None:
        self.gradients.append(torch.cat([each.grad.flatten() for each in self.parameters() if each.grad is not None]))


def thawed() -> list[Tensor]:
    torch.manual_seed(3)
    module = Thawed()
    kit.trainer(devices=2, max_epochs=2, accumulate_grad_batches=2).fit(module, samples(16, 2))
    return module.gradients


def test_a_window_that_begins_as_parameters_thaw_is_exchanged_once() -> None:
    first, second = together(2, thawed)
    assert [len(gradients) for gradients in first] == [4] * 4 + [16] * 4
    assert [torch.equal(*each) for each in zip(first, second, strict=True)] == [False, True] * 4
