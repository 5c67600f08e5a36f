"""How gradients are exchanged under ddp, where the user says it: hooks and their state, averages of parameters, the backend."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from real_processes import together
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, post_localSGD_hook, powerSGD_hook
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.errors import InvalidOption, LeydenWarning, Unsupported
from leyden.strategies import DDPStrategy
from leyden.testing import BoringModel


class Net(leyden.LightningModule):
    """Layers that are not called in the order in which they were made; ``wide`` more than fit into one bucket."""

    def __init__(self, wide: int = 12) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(wide, 1), nn.Linear(6, wide)
        self.views: set[int] = set()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.last(torch.relu(self.first(batch[0]))) - 1).pow(2).mean()

    def on_after_backward(self) -> None:
        self.views = {each.grad.untyped_storage().data_ptr() for each in self.parameters() if each.grad is not None}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1.2 / self.last.in_features, momentum=0.9)


def samples() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(48, 6, generator=generator)), 2, shuffle=True)


def fitted(steps: int, path: str | None = None, world: int = 2, wide: int = 12, **options: Any) -> tuple[Any, Net]:
    torch.manual_seed(5)
    module = Net(wide)
    run = kit.trainer(devices=world, strategy=DDPStrategy(**options), max_steps=steps, max_epochs=-1)
    run.fit(module, samples(), ckpt_path=path)
    return run, module


def trained(steps: int, **options: Any) -> dict[str, Tensor]:
    return kit.weights(fitted(steps, **options)[1])


def near(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


# -- hooks
def halved(state: dict[str, Any], bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    state["buckets"] = state.get("buckets", 0) + 1
    return default_hooks.allreduce_hook(None, bucket).then(lambda done: done.value().div_(2))  # type: ignore[arg-type]


def of_hooks() -> dict[str, bool]:
    plain, counted = trained(4), {"named": "mine"}
    half = trained(4, ddp_comm_hook=default_hooks.fp16_compress_hook)
    wrapped = trained(4, ddp_comm_hook=default_hooks.allreduce_hook, ddp_comm_wrapper=default_hooks.fp16_compress_wrapper)
    slower = trained(1, ddp_comm_hook=halved, ddp_comm_state=counted)
    begun, first = kit.weights(_begun()), trained(1)
    views, alone = fitted(2, gradient_as_bucket_view=True), fitted(2)
    errors: dict[str, str] = {}
    for hook in (default_hooks.bf16_compress_hook, lambda state, parcel: None):
        try:
            trained(1, ddp_comm_hook=hook)
        except Unsupported as error:
            errors[hook.__name__] = str(error)
    return {
        "fp16 is near": near(plain, half) and not kit.same(plain, half),
        "a wrapper is the same": kit.same(half, wrapped),
        "a state is handed on": counted == {"named": "mine", "buckets": 1},
        "a hook decides": all(torch.allclose(slower[n], (begun[n] + first[n]) / 2, atol=1e-6) for n in begun),
        "gradients are views of one bucket": len(views[1].views) == 1 < len(alone[1].views),
        "and the same numbers": kit.same(kit.weights(views[1]), kit.weights(alone[1])),
        "bf16 is refused where there is no NCCL": torch.version.cuda is not None
        or ("ddp_comm_hook=bf16_compress_hook cannot exchange" in (told := errors["bf16_compress_hook"]) and "NCCL" in told),
        "a hook of other arguments is refused": "ddp_comm_hook=<lambda> cannot exchange" in errors["<lambda>"],
    }


def _begun() -> Net:
    torch.manual_seed(5)
    return Net()


def test_a_hook_exchanges_the_gradients() -> None:
    for found in together(2, of_hooks):
        assert all(found.values()), found


# -- their state in checkpoints
class Momentum:
    """The state of a hook of one's own, with an object that no file can hold unless it is asked for words."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []


class Speaking(Momentum):
    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = state["sums"]


def gathering(state: Momentum, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    def then(done: Any) -> Tensor:
        total: Tensor = done.value()
        state.sums = [total if not state.sums else state.sums[0] * 0.5 + total]
        return state.sums[0].clone()

    return default_hooks.allreduce_hook(None, bucket).then(then)  # type: ignore[arg-type]


class Unwritable:
    pass


def kinds(kind: str) -> dict[str, Any]:
    if kind == "PowerSGD":
        state: Any = powerSGD_hook.PowerSGDState(None, 1, start_powerSGD_iter=2, min_compression_rate=0.1)
        return {"ddp_comm_state": state, "ddp_comm_hook": powerSGD_hook.powerSGD_hook}
    return {"ddp_comm_state": Speaking() if kind == "speaking" else Momentum(), "ddp_comm_hook": gathering}


def resumed(folder: str, world: int) -> dict[str, bool]:
    found = {}
    for kind in ("PowerSGD", "attributes", "speaking"):
        path = os.path.join(folder, f"{kind} {world}")
        whole = trained(7, **kinds(kind), world=world)
        fitted(4, **kinds(kind), world=world)[0].save_checkpoint(path)
        found[f"{kind} counts"] = not kit.same(whole, trained(7, world=world))
        found[kind] = kit.same(whole, trained(7, path=path, **kinds(kind), world=world))
    options = kinds("attributes")
    options["ddp_comm_state"].strange = Unwritable()
    run, _ = fitted(2, **options, world=world)
    with pytest.warns(LeydenWarning, match=r"ddp_comm_state.strange cannot be written to a checkpoint"):
        run.save_checkpoint(os.path.join(folder, "strange"))
    run, _ = fitted(7, **kinds("PowerSGD"), world=world)
    state = run.strategy._comm.state
    run.fit(Net(), samples())
    found["another fit begins anew"] = state.iter <= 7
    return found


def test_a_run_goes_on_with_what_its_hook_remembers(tmp_path: Path) -> None:
    for found in together(2, resumed, str(tmp_path), 2):
        assert all(found.values()), found


def of_another_world(path: str) -> tuple[list[str], int]:
    options = kinds("PowerSGD")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained(5, path=path, world=2, **options)
    return [str(each.message) for each in said], len(options["ddp_comm_state"].q_memory_dict)


def saved_by(world: int, path: str) -> None:
    fitted(4, **kinds("PowerSGD"), world=world)[0].save_checkpoint(path)


@pytest.mark.distributed
def test_on_other_processes_a_hook_goes_on_with_what_was_alike(tmp_path: Path) -> None:
    path = str(tmp_path / "saved")
    together(3, saved_by, 3, path)
    for said, memories in together(2, of_another_world, path):
        assert any("of ddp_comm_state, error_dict differed between them and begin anew" in each for each in said), said
        assert memories > 0


def bits(folder: str, world: int) -> bool:
    whole = trained(6, wide=40_000, world=world)
    kept = [fitted(steps, wide=40_000, world=world)[0] for steps in (1, 3)]
    paths = [os.path.join(folder, f"{steps}") for steps in (1, 3)]
    for run, path in zip(kept, paths, strict=True):
        run.save_checkpoint(path)
    return all(kit.same(whole, trained(6, path=path, wide=40_000, world=world)) for path in paths[1:])


@pytest.mark.distributed
def test_four_processes_go_on_to_the_same_bits_in_the_buckets_that_were(tmp_path: Path) -> None:
    assert together(4, bits, str(tmp_path), 4) == [True] * 4


# -- averages of parameters
def averaged() -> dict[str, bool]:
    def options() -> dict[str, Any]:
        state = post_localSGD_hook.PostLocalSGDState(None, None, 2, post_local_gradient_allreduce=False)
        return {"ddp_comm_state": state, "ddp_comm_hook": post_localSGD_hook.post_localSGD_hook}

    def alike(weights: dict[str, Tensor]) -> bool:
        everywhere: list[Any] = [None, None]
        dist.all_gather_object(everywhere, weights)
        return kit.same(*everywhere)

    found = {
        f"alike after {steps}": alike(trained(steps, **options(), model_averaging_period=3)) is expected
        for steps, expected in ((2, True), (3, True), (4, False), (5, False), (6, True))
    }
    run, _ = fitted(4, **options(), model_averaging_period=3)
    with pytest.warns(LeydenWarning, match=r"between two averagings .*averaged: 3, 6"):
        run.save_checkpoint("between.ckpt")
    run, _ = fitted(6, **options(), model_averaging_period=3)
    run.save_checkpoint("averaged.ckpt")
    again, _ = fitted(7, path="averaged.ckpt", **options(), model_averaging_period=3)
    found["the count goes on"] = again.strategy._averaging.steps == 7
    with pytest.raises(ValueError, match="model_averaging_period=None cannot be used: expected a number of steps"):
        fitted(1, **options())
    return found


def test_parameters_are_averaged_after_post_local_sgd(tmp_path: Path) -> None:
    for found in together(2, averaged):
        assert all(found.values()), found


# -- arguments
def test_what_does_nothing_is_said() -> None:
    with pytest.warns(LeydenWarning, match="ddp_comm_state and ddp_comm_wrapper does nothing without ddp_comm_hook"):
        DDPStrategy(ddp_comm_state={}, ddp_comm_wrapper=default_hooks.fp16_compress_wrapper)
    with pytest.warns(LeydenWarning, match="model_averaging_period=2 does nothing without local SGD"):
        DDPStrategy(model_averaging_period=2)


@pytest.mark.parametrize(
    ("backend", "error", "message"),
    [
        ("globe", InvalidOption, "process_group_backend='globe' cannot be used: expected one of 'gloo'.*cpu:gloo,cuda:nccl"),
        (3, InvalidOption, "process_group_backend=3 cannot be used: expected a text"),
        ("cuda:gloo", Unsupported, "exchanges nothing between devices of kind 'cpu'.*'gloo'"),
        ("mpi", Unsupported, "was built without mpi"),
    ],
)
def test_a_backend_that_cannot_serve_is_an_error_before_anything_starts(backend: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        kit.trainer(devices=2, strategy=DDPStrategy(process_group_backend=backend))


def backend_of(name: str | None) -> tuple[Any, str]:
    run = kit.trainer(devices=2, strategy=DDPStrategy(process_group_backend=name))
    run.fit(BoringModel(), DataLoader(torch.randn(4, 32), 1))
    return run.strategy.process_group_backend, str(dist.get_backend_config())


def test_the_backend_that_was_asked_for_is_taken() -> None:
    assert together(2, backend_of, "cpu:gloo")[0] == ("cpu:gloo", "cpu:gloo")


class Heads(leyden.LightningModule):
    """Two heads of one size, of which each process trains its own; the epoch ends inside a window, after three batches."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 1, bias=False) for _ in range(2))
        for each in self.parameters():
            nn.init.zeros_(each)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 3 else None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (1, 3)[self.global_rank] * self.heads[self.global_rank](batch[0]).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1.0)


class SkippingHeads(Heads):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 2 and self.global_rank == 0 else super().training_step(batch, batch_idx)


def of_an_unfilled_window() -> list[list[float]]:
    found = []
    for kind in (Heads, SkippingHeads):
        module = kind()
        loader = DataLoader(TensorDataset(torch.ones(12, 2)))
        kit.trainer(devices=2, strategy="ddp_find_unused_parameters_true", accumulate_grad_batches=2).fit(module, loader)
        found.append([float(each.weight[0, 0]) for each in module.heads])
    return found


def test_a_window_that_is_not_filled_averages_each_parameters_own_gradients() -> None:
    first, second = together(2, of_an_unfilled_window)
    # two windows of a mean gradient of half of 1 and of 3; where the first process skips all of the second, the other's alone
    assert first == second == [[-1.0, -3.0], [-0.5, -4.5]]
