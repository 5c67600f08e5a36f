"""Training in several real processes with parameters in shards: FSDP2."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from real_processes import outcomes_together, together
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffload, FSDPModule, MixedPrecision, MixedPrecisionPolicy, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy, size_based_auto_wrap_policy, wrap
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.errors import (
    CheckpointDamaged,
    CheckpointError,
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    MisconfigurationException,
    UnknownName,
    Unsupported,
)
from leyden.plugins import FSDPPrecision
from leyden.strategies import FSDPStrategy

OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    "adamw": partial(torch.optim.AdamW, lr=0.05),
    "fused": partial(torch.optim.SGD, lr=0.1, fused=True),
    "lbfgs": torch.optim.LBFGS,
    "adafactor": torch.optim.Adafactor,
}


class Block(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.layer = nn.Linear(inside, outside)
        self.norm = nn.LayerNorm(outside)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)).tanh()


class Net(leyden.LightningModule):
    def __init__(self, optimizer: str = "sgd", direct: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.first, self.second, self.head = Block(3, 5), Block(5, 5), nn.Linear(5, 1)
        self.optimizer, self.direct = optimizer, direct
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += batch[0][:, 0].tolist()
        loss = self.head(self.second(self.first(batch[0]))) if self.direct else self(batch[0])
        loss = (loss - 1).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("value", self(batch[0]).mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("first", batch[0][:, 0].mean())
        self.log("value", self(batch[0]).mean())

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.parameters())


def rows(count: int) -> Tensor:
    return torch.arange(3.0 * count).view(count, 3) / count


def samples(count: int, size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(rows(count)), size)


POLICIES: dict[str, Any] = {
    "set": lambda: {Block},
    "wrap": lambda: ModuleWrapPolicy({Block}),
    "size": lambda: partial(size_based_auto_wrap_policy, min_num_params=20),
}
"""By name, as a class of this file cannot be sent to a process that has not loaded it yet."""


def fsdp(auto_wrap_policy: str | None = None, recompute: str | None = None, **asked: Any) -> FSDPStrategy:
    asked["auto_wrap_policy"] = None if auto_wrap_policy is None else POLICIES[auto_wrap_policy]()
    asked["activation_checkpointing_policy"] = None if recompute is None else POLICIES[recompute]()
    return FSDPStrategy(**asked)


def weights_of(run: leyden.Trainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.strategy.lightning_module_state_dict().items()}


def trained(
    devices: int, size: int, module: Any = None, strategy: Any = "auto", ckpt_path: Any = None, save: Any = None, **options: Any
) -> tuple[dict[str, Tensor], list[float], dict[str, float]]:
    """The whole weights (on the first process), the samples that this process saw, and the metrics, after a fit."""
    torch.manual_seed(3 + (int(os.environ["RANK"]) if devices > 1 else 0))  # the first process's weights count
    net = Net(**(module or {}))
    run = kit.trainer(
        devices=devices, strategy=fsdp(**strategy) if isinstance(strategy, dict) else strategy, **{"max_epochs": 2, **options}
    )
    run.fit(net, samples(16, size), samples(5, 1), ckpt_path=ckpt_path)
    assert type(net).__name__ == "Net"
    assert run.world_size == devices
    if save:
        run.save_checkpoint(save)
    return weights_of(run), net.seen, {name: float(value) for name, value in run.callback_metrics.items()}


CASES: list[tuple[dict[str, Any], Any, dict[str, Any]]] = [
    ({"optimizer": "sgd"}, "fsdp", {}),
    ({"optimizer": "adamw"}, {"auto_wrap_policy": "set"}, {"gradient_clip_val": 0.1}),
    ({"optimizer": "adamw", "direct": True}, {"auto_wrap_policy": "wrap"}, {"accumulate_grad_batches": 3}),
    (
        {"optimizer": "sgd"},
        {"auto_wrap_policy": "size", "cpu_offload": True},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    ),
    (
        {"optimizer": "sgd"},
        {"sharding_strategy": "SHARD_GRAD_OP", "recompute": "set"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
    ),
    ({"optimizer": "adamw"}, {"sharding_strategy": "HYBRID_SHARD", "device_mesh": (2, 1)}, {}),
    ({"optimizer": "adamw"}, "fsdp", {"precision": "64-true"}),
]


def test_two_processes_are_one_with_batches_twice_as_large() -> None:
    both = together(2, all_cases)
    for (module, strategy, options), first, second in zip(CASES, *both, strict=True):
        whole = trained(1, 4, module, **options)
        assert first[0].keys() == whole[0].keys()
        for name, value in whole[0].items():
            assert torch.allclose(first[0][name], value, atol=1e-6), (strategy, options, name)
        assert second[0] == {}, "no process but the first holds all weights"
        assert sorted(first[1] + second[1]) == sorted(whole[1])
        for name in ("loss_epoch", "value"):
            assert first[2][name] == second[2][name]
            assert first[2][name] == pytest.approx(whole[2][name], abs=1e-6)


def all_cases() -> list[Any]:
    return [trained(2, 2, module, strategy, **options) for module, strategy, options in CASES]


# -- checkpoints


def test_a_checkpoint_goes_on_under_any_strategy(tmp_path: Path) -> None:
    options: dict[str, Any] = {"module": {"optimizer": "adamw"}, "gradient_clip_val": 0.5}
    path = {name: str(tmp_path / f"{name}.ckpt") for name in ("single", "fsdp", "ddp", "folder")}
    whole = trained(1, 4, max_epochs=3, **options)
    trained(1, 4, max_epochs=1, save=path["single"], **options)
    (first, _), _ = outcome, _ = together(2, changed_strategies, path, options)
    for weights in (first, outcome[1]):
        for name, value in whole[0].items():
            assert torch.allclose(weights[name], value, atol=2e-6), name
    back = trained(1, 4, max_epochs=3, ckpt_path=path["fsdp"], **options)
    for name, value in whole[0].items():
        assert torch.allclose(back[0][name], value, atol=2e-6), name
    single, sharded = (torch.load(path[name], weights_only=True) for name in ("single", "fsdp"))
    assert list(single["state_dict"]) == list(sharded["state_dict"])
    assert single["state_dict"]["head.weight"].shape == sharded["state_dict"]["head.weight"].shape
    for one, other in zip(single["optimizer_states"], sharded["optimizer_states"], strict=True):
        assert one["param_groups"] == other["param_groups"]
        assert one["state"].keys() == other["state"].keys()
        assert {key: value.shape for key, value in one["state"][3].items()} == {
            key: value.shape for key, value in other["state"][3].items()
        }
    assert Net.load_from_checkpoint(path["fsdp"]).optimizer == "adamw"
    assert "FSDP" not in (tmp_path / "fsdp.ckpt").read_bytes().decode("latin1")


def changed_strategies(path: dict[str, str], options: dict[str, Any]) -> Any:
    policy = {"auto_wrap_policy": "set"}
    folder = {"state_dict_type": "sharded"}
    trained(2, 2, strategy=folder, max_epochs=1, ckpt_path=path["single"], save=path["folder"], **options)
    trained(2, 2, strategy=policy, max_epochs=2, ckpt_path=path["folder"], save=path["fsdp"], **options)
    under_ddp = trained(2, 2, strategy="ddp", max_epochs=3, ckpt_path=path["fsdp"], **options)[0]
    trained(2, 2, strategy="ddp", max_epochs=2, ckpt_path=path["single"], save=path["ddp"], **options)
    return under_ddp, trained(2, 2, strategy="fsdp", max_epochs=3, ckpt_path=path["ddp"], **options)[0]


class Saver(leyden.Callback):
    def __init__(self, step: int, path: str) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.step:
            trainer.save_checkpoint(self.path)


def test_a_window_that_is_half_full_is_continued_to_the_same_bits(tmp_path: Path) -> None:
    (whole, again), _ = together(2, cut_in_a_window, str(tmp_path / "half.ckpt"))
    assert kit.same(whole, again)


def cut_in_a_window(path: str) -> Any:
    options: dict[str, Any] = {"module": {"optimizer": "adamw"}, "strategy": "fsdp", "accumulate_grad_batches": 3}
    whole = trained(2, 2, callbacks=[Saver(4, path)], **options)[0]
    return whole, trained(2, 2, ckpt_path=path, **options)[0]


def test_a_damaged_file_is_an_error_on_every_process(tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    trained(1, 4, save=str(path))
    path.write_bytes(path.read_bytes()[:2000])
    for outcome in outcomes_together(2, trained, 2, 2, None, "fsdp", str(path)):
        assert isinstance(outcome, CheckpointDamaged)


# -- evaluation


def test_evaluation_is_exact_where_processes_have_unequal_numbers_of_batches() -> None:
    torch.manual_seed(3)
    net = Net()
    alone = kit.trainer(devices=1)
    tested = alone.test(net, samples(5, 1))
    predicted = torch.cat(alone.predict(net, samples(5, 1)))
    for outcome in together(2, evaluated):
        assert outcome["test"] == tested
        assert outcome["one"] == alone.test(net, samples(1, 1))
        assert outcome["predicted"] == pytest.approx(predicted.flatten().tolist(), abs=1e-6)


def evaluated() -> Any:
    torch.manual_seed(3)
    net = Net()
    run = kit.trainer(devices=2, strategy=fsdp(auto_wrap_policy="set"), num_sanity_val_steps=2)
    found = {"one": run.test(net, samples(1, 1)), "test": run.test(net, samples(5, 1))}
    predicted = run.predict(net, samples(5, 1))
    found["predicted"] = torch.cat(predicted).flatten().tolist()
    run.fit(net, samples(8, 2), samples(3, 1))  # what an evaluation has made whole can be trained
    return found


# -- what users write


class Sharding(Net):
    """Shards in ``configure_model``, as FSDP2's documents do."""

    def configure_model(self) -> None:
        if isinstance(self.second, FSDPModule):
            return
        assert self.device_mesh is not None
        assert self.device_mesh.size() == 2
        for layer in (self.first, self.second, self.head):
            fully_shard(layer, mesh=self.device_mesh)


class Wrapping(Net):
    """Wraps in ``configure_model``, as Lightning's documents do."""

    def configure_model(self) -> None:
        self.second = wrap(self.second)


class Late(Net):
    """Makes its layers in ``configure_model``, without memory."""

    def __init__(self) -> None:
        super().__init__()
        del self.first, self.second, self.head

    def configure_model(self) -> None:
        with torch.device("meta"):
            self.first, self.second, self.head = Block(3, 5), Block(5, 5), nn.Linear(5, 1)


class Unfilled(Net):
    def configure_model(self) -> None:
        self.scale = nn.Module()
        self.scale.weight = nn.Parameter(torch.ones(2, device="meta"))


class Single(Net):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.0))


class Early(Net):
    def __init__(self) -> None:
        super().__init__()
        self.made = torch.optim.SGD(self.parameters(), 0.1)

    def configure_optimizers(self) -> Any:
        return self.made


class Gan(leyden.LightningModule):
    """Two networks and two optimizers, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critics = Block(3, 3), nn.ModuleList([Block(3, 4), nn.Linear(4, 1)])

    def criticise(self, x: Tensor) -> Tensor:
        for layer in self.critics:
            x = layer(x)
        return x

    def training_step(self, batch: Any, batch_idx: int) -> None:
        one, other = self.optimizers()
        self.toggle_optimizer(one)
        loss = -self.criticise(self.generator(batch[0])).mean()
        one.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(one, gradient_clip_val=0.5)
        one.step()
        self.untoggle_optimizer(one)
        for _ in range(2):
            loss = (self.criticise(self.generator(batch[0]).detach()) - self.criticise(batch[0])).pow(2).mean()
            other.zero_grad()
            self.manual_backward(loss)
            other.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.generator.parameters(), 0.1), torch.optim.SGD(self.critics.parameters(), 0.1)]


def fitted(module: leyden.LightningModule, devices: int = 2, size: int = 2, strategy: Any = "fsdp", **options: Any) -> Any:
    run = kit.trainer(devices=devices, strategy=strategy, **options)
    run.fit(module, samples(8, size), *([samples(2, 1)] if isinstance(module, Net) else []))
    return weights_of(run)


def test_modules_that_shard_themselves_and_steps_by_hand_train_the_same() -> None:
    first, second = together(2, as_users_write)
    whole = as_users_write(1, 4, "auto")
    for name, weights in whole.items():
        assert first[name].keys() == weights.keys()
        for key, value in weights.items():
            assert torch.allclose(first[name][key], value, atol=1e-6), (name, key)
    assert set(second) == set(whole)


def as_users_write(devices: int = 2, size: int = 2, strategy: Any = "fsdp") -> dict[str, Any]:
    found = {}
    for kind in (Sharding, Wrapping, Gan) if devices > 1 else (Net, Net, Gan):
        torch.manual_seed(3)
        found["Net" if kind is not Gan else "Gan"] = fitted(kind(), devices, size, strategy)
    if devices > 1:
        torch.manual_seed(3)
        found["Net"] = fitted(Sharding(), devices, size, strategy)
    return found


def test_what_cannot_be_trained_is_an_error_before_training() -> None:
    for outcome in together(2, refused):
        for (kind, message), (raised, said) in zip(REFUSED, outcome, strict=True):
            assert raised == kind.__name__
            assert message in said


REFUSED: list[tuple[type[Exception], str]] = [
    (Unsupported, "SGD(fused=True) cannot train parameters that are in shards"),
    (Unsupported, "LBFGS cannot train parameters that are in shards"),
    (Unsupported, "Adafactor cannot train parameters that are in shards"),
    (Unsupported, "The parameter 'temperature' of Single is a single number"),
    (MisconfigurationException, "Make the optimizer in configure_optimizers"),
    (MisconfigurationException, "scale was made on the meta device and has no reset_parameters()"),
    (Unsupported, "cannot train float16 parameters on CPUs"),
    (ConflictingOptions, "device_mesh=(4, 2) are 8 processes, and the Trainer asks for 2"),
    (CheckpointError, "between forward and backward"),
    (Unsupported, "has the parameter 'extra' itself"),
]


class Between(leyden.Callback):
    def on_before_backward(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint("never.ckpt")


def refused() -> list[Any]:
    gan = Gan()
    gan.extra = nn.Parameter(torch.ones(2))
    tries: list[Any] = [
        lambda: fitted(Net("fused")),
        lambda: fitted(Net("lbfgs")),
        lambda: fitted(Net("adafactor")),
        lambda: fitted(Single()),
        lambda: fitted(Early()),
        lambda: fitted(Unfilled()),
        lambda: fitted(Net(), precision="16-true"),
        lambda: fitted(Net(), strategy=FSDPStrategy(sharding_strategy="HYBRID_SHARD", device_mesh=(4, 2))),
        lambda: fitted(Net(), callbacks=[Between()]),
        lambda: fitted(gan),
    ]
    return [raised_by(attempt) for attempt in tries]


def raised_by(attempt: Any) -> tuple[str, str]:
    try:
        attempt()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def test_mixed_precision_and_modules_without_memory() -> None:
    for found in together(2, in_sixteen_bits):
        assert found["policy"] == (torch.bfloat16, torch.float32)
        assert found["kinds"] == {torch.float32}
        assert found["halves"] == {torch.bfloat16}
        assert found["late"]
        assert found["scale"] > 0
        assert found["apart"] == 1.0


def in_sixteen_bits() -> dict[str, Any]:
    run = kit.trainer(devices=2, strategy="fsdp", precision="bf16-mixed")
    run.fit(Net(), samples(8, 2))
    policy = run.strategy.mixed_precision_config
    assert isinstance(run.precision_plugin, FSDPPrecision)
    found: dict[str, Any] = {
        "policy": (policy.param_dtype, policy.reduce_dtype),
        "kinds": {parameter.dtype for parameter in run.lightning_module.parameters()},
    }
    half = kit.trainer(devices=2, strategy="fsdp", precision="bf16-true")
    half.fit(Net("adamw"), samples(8, 2))
    found["halves"] = {parameter.dtype for parameter in half.lightning_module.parameters()}
    torch.manual_seed(run.global_rank)
    late = kit.trainer(devices=2, strategy=fsdp(auto_wrap_policy="set"))
    late.fit(Late(), samples(8, 2))
    found["late"] = all(parameter.to_local().isfinite().all() for parameter in late.lightning_module.parameters())
    scaled = kit.trainer(devices=2, strategy="fsdp", precision="16-mixed", gradient_clip_val=0.1)
    scaled.fit(Net(), samples(8, 2))
    scaled.save_checkpoint("scaled.ckpt")
    found["scale"] = torch.load("scaled.ckpt", weights_only=True)["MixedPrecision"]["scale"] if run.is_global_zero else 1.0
    with scaled.init_module(empty_init=True):
        assert Net().head.weight.is_meta
    ignored = Net()
    apart = kit.trainer(devices=2, strategy=FSDPStrategy(ignored_modules=[ignored.head.requires_grad_(False)]))
    apart.fit(ignored, samples(8, 2))
    found["apart"] = float(not hasattr(ignored.head.weight, "placements"))
    return found


# -- arguments


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"sharding_strategy": "NO_SHARD"}, Unsupported, "Use strategy='ddp'"),
        ({"sharding_strategy": ShardingStrategy.NO_SHARD}, Unsupported, "Use strategy='ddp'"),
        ({"sharding_strategy": "SOME"}, InvalidOption, "'FULL_SHARD', 'SHARD_GRAD_OP', 'HYBRID_SHARD'"),
        ({"state_dict_type": "local"}, InvalidOption, "'full' or 'sharded'"),
        ({"cpu_offload": "yes"}, InvalidType, "CPUOffloadPolicy"),
        ({"auto_wrap_policy": {3}}, InvalidType, "a set of module classes"),
        ({"auto_wrap_policy": Block}, InvalidType, "a set of module classes"),
        ({"activation_checkpointing": Block, "activation_checkpointing_policy": {Block}}, ConflictingOptions, "mean the same"),
        ({"device_mesh": (2, 2)}, ConflictingOptions, "two go with HYBRID_SHARD"),
        ({"device_mesh": (2, 0)}, InvalidOption, "two numbers of processes"),
        ({"device_mesh": 2}, InvalidType, "two numbers of processes"),
        ({"use_orig_params": False}, Unsupported, "belongs to the first FSDP"),
        ({"process_group": "x"}, Unsupported, "Pass device_mesh"),
        ({"mp_policy": None}, ConflictingOptions, "is called mixed_precision here"),
        ({"auto_wrap_polcy": None}, UnknownName, "auto_wrap_policy"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message.replace("(", r"\(")):
        FSDPStrategy(**asked)


def test_arguments_of_the_first_fsdp_are_read() -> None:
    strategy = FSDPStrategy(
        cpu_offload=CPUOffload(offload_params=True),
        mixed_precision=MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        sharding_strategy=ShardingStrategy.SHARD_GRAD_OP,
        activation_checkpointing=[Block],
        use_orig_params=True,
        limit_all_gathers=True,
    )
    assert strategy.cpu_offload == CPUOffload(offload_params=True)
    assert strategy.sharding_strategy is ShardingStrategy.SHARD_GRAD_OP
    policy = strategy.mixed_precision_config
    assert isinstance(policy, MixedPrecisionPolicy)
    assert (policy.param_dtype, policy.reduce_dtype, policy.cast_forward_inputs) == (torch.bfloat16, torch.float32, True)
    with pytest.raises(InvalidType, match="a MixedPrecisionPolicy"):
        _ = FSDPStrategy(mixed_precision="bf16").mixed_precision_config
    assert kit.trainer(devices=2, strategy="fsdp_cpu_offload").strategy.cpu_offload.offload_params


@pytest.mark.parametrize(
    ("asked", "error"),
    [({"precision": "64-true"}, InvalidOption), ({"precision": "bf16-mixed", "scaler": 1}, ConflictingOptions)],
)
def test_precisions_that_make_no_sense(asked: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        FSDPPrecision(**asked)


def with_an_example() -> int:
    module = Net()
    module.example_input_array = torch.ones(2, 3)
    fitted(module, enable_model_summary=True)
    return int(module.trainer.global_step)


def test_a_summary_tries_no_example_on_shards() -> None:
    assert together(2, with_an_example) == [2, 2]
