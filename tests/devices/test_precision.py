"""Precision policies: what they convert, and that loss scaling unscales once, clips and steps as PyTorch would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kit
import pytest
import torch
from torch import Tensor, nn

from leyden import Trainer
from leyden.devices.precision import (
    PRECISIONS,
    DoublePrecision,
    HalfPrecision,
    MixedPrecision,
    Precision,
    default_dtype,
    make_precision,
)
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, MisconfigurationException, Unsupported
from leyden.plugins.precision.double import LightningDoublePrecisionModule
from leyden.testing import BoringModel

CLIP = 0.05


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, 4, generator=generator) for _ in range(count)]


def weights(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def fused_adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)


def plain_sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "32-true"),
        (32, "32-true"),
        ("32", "32-true"),
        (16, "16-mixed"),
        ("16", "16-mixed"),
        ("bf16", "bf16-mixed"),
        (64, "64-true"),
        ("64", "64-true"),
        *((name, name) for name in PRECISIONS),
    ],
)
def test_every_way_to_ask(given: Any, name: str) -> None:
    policy = make_precision(given, "cpu")
    assert policy.name == policy.precision == name
    assert repr(policy) == f"{type(policy).__name__}({name!r})"


@pytest.mark.parametrize("given", ["foo", 8, "16-full", "", "32-Mixed"])
def test_an_unknown_precision_lists_the_known(given: Any) -> None:
    with pytest.raises(InvalidOption, match=f"precision={given!r} cannot be used: expected one of '64-true', '32-true'.*'bf16'"):
        make_precision(given)


@pytest.mark.parametrize("given", [True, 16.0, torch.float16])
def test_a_precision_is_a_name_or_a_number(given: Any) -> None:
    with pytest.raises(InvalidType, match="precision="):
        make_precision(given)


@pytest.mark.parametrize("given", ["transformer-engine", "transformer-engine-float16"])
def test_transformer_engine_is_not_offered(given: str) -> None:
    with pytest.raises(Unsupported, match="Use precision='bf16-mixed'"):
        make_precision(given)


def test_mps_has_no_double() -> None:
    with pytest.raises(Unsupported, match="'64-true' does not exist on MPS"):
        make_precision(64, "mps")


def test_full_precision_does_nothing_and_says_so() -> None:
    policy, net, batch = Precision(), small_net(), {"x": torch.ones(2, dtype=torch.float64)}
    assert [policy.converts_input, policy.has_forward_context, policy.scales] == [False, False, False]
    assert policy.convert_module(net) is net
    assert policy.convert_input(batch) is batch
    loss = torch.ones((), requires_grad=True)
    assert policy.scale(loss) is loss
    with policy.forward_context(), policy.init_context():
        assert torch.ones(1).dtype is torch.float32
    policy.unscale(plain_sgd(net))
    policy.load_state_dict(policy.state_dict())
    assert policy.state_dict() == {}


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        (DoublePrecision(), torch.float64),
        (HalfPrecision(), torch.float16),
        (HalfPrecision("bf16-true"), torch.bfloat16),
    ],
)
def test_true_precisions_convert_module_and_batch(policy: Precision, dtype: torch.dtype) -> None:
    net = policy.convert_module(small_net())
    assert {parameter.dtype for parameter in net.parameters()} == {dtype}
    batch: dict[str, Any] = {"x": [torch.ones(2, 4), torch.tensor([1, 2])], "name": "b"}
    converted = policy.convert_input(batch)
    assert converted["x"][0].dtype is dtype
    assert converted["x"][1] is batch["x"][1]
    assert batch["x"][0].dtype is torch.float32  # the caller's batch is as it was
    assert policy.converts_input
    assert policy.has_forward_context
    assert not policy.scales
    with policy.forward_context():
        assert torch.ones(1).dtype is dtype
        assert net(converted["x"][0]).dtype is dtype
    with policy.init_context():
        assert nn.Linear(1, 1).weight.dtype is dtype
    assert torch.get_default_dtype() is torch.float32


def test_the_default_dtype_is_put_back_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), default_dtype(torch.float64):
        raise ZeroDivisionError
    assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("make", [HalfPrecision, lambda name: MixedPrecision(name, "cpu")])
def test_a_policy_refuses_anothers_name(make: Callable[[str], Precision]) -> None:
    with pytest.raises(InvalidOption, match="precision='32-true'"):
        make("32-true")


@pytest.mark.parametrize(("name", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)])
def test_mixed_precision_computes_products_in_16_bits(name: str, dtype: torch.dtype) -> None:
    policy, net = MixedPrecision(name, "cpu"), small_net()
    with policy.forward_context():
        assert net(torch.ones(1, 4)).dtype is dtype
    assert {parameter.dtype for parameter in policy.convert_module(net).parameters()} == {torch.float32}
    assert not policy.converts_input
    assert policy.has_forward_context
    assert policy.scales == (name == "16-mixed")


@pytest.mark.parametrize("name", ["16-mixed", "bf16-mixed"])
def test_a_forward_without_gradients_inside_a_step_does_not_lose_them(name: str) -> None:
    policy, net = MixedPrecision(name, "cpu"), small_net()
    with policy.forward_context():
        with torch.no_grad():
            net(torch.ones(1, 4))
        loss = net(torch.ones(1, 4)).sum()
    policy.scale(loss).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_scaler_that_scales_nothing_is_refused() -> None:
    with pytest.raises(ConflictingOptions, match="was passed with 'bf16-mixed', which scales nothing"):
        MixedPrecision("bf16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))


def test_a_scaler_of_the_users_own() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    policy = MixedPrecision("16-mixed", "cpu", scaler)
    assert policy.scaler is scaler
    assert policy.scale(torch.ones(())).item() == 8.0


@pytest.mark.parametrize("make_optimizer", [fused_adamw, plain_sgd])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_16_mixed_with_clipping_equals_the_plain_loop(
    make_optimizer: Callable[[nn.Module], torch.optim.Optimizer], accumulate: int
) -> None:
    plain = small_net()
    optimizer, scaler = make_optimizer(plain), torch.amp.GradScaler("cpu")
    for index, batch in enumerate(batches(8)):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = plain(batch).square().mean() / accumulate
        scaler.scale(loss).backward()
        if (index + 1) % accumulate == 0:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(plain.parameters(), CLIP)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    net, policy = small_net(), make_precision("16-mixed", "cpu")
    optimizer = make_optimizer(net)
    for index, batch in enumerate(batches(8)):
        with policy.forward_context():
            loss = net(batch).square().mean() / accumulate
        policy.backward(policy.scale(loss), net, optimizer)
        if (index + 1) % accumulate == 0:
            policy.unscale(optimizer)
            policy.unscale(optimizer)  # asked twice: by the clipping and by a hook
            norm = nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            assert not norm.isfinite() or norm < 100  # unscaled once: not 65536 times too large
            policy.step(optimizer)
            optimizer.zero_grad()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(net), weights(plain), strict=True))
    assert policy.state_dict() == scaler.state_dict()
    assert not torch.equal(weights(net)[0], weights(small_net())[0])


@pytest.mark.parametrize("make_optimizer", [fused_adamw, plain_sgd])
def test_a_step_whose_gradients_overflowed_is_skipped(make_optimizer: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    net, policy = small_net(), make_precision("16-mixed", "cpu")
    optimizer, before = make_optimizer(net), weights(net)
    policy.scale(net(torch.full((1, 4), float("inf"))).sum()).backward()
    policy.unscale(optimizer)
    policy.step(optimizer)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights(net), before, strict=True))
    assert policy.state_dict()["scale"] == 2.0**15


def test_the_closure_runs_before_the_step_and_its_result_is_returned() -> None:
    for policy in (make_precision(32), make_precision("bf16-mixed"), make_precision("16-mixed")):
        net = small_net()
        optimizer, before = plain_sgd(net), weights(net)

        def closure(policy: Precision = policy, net: nn.Module = net) -> Tensor:
            loss: Tensor = net(torch.ones(1, 4)).sum()
            policy.scale(loss * 1e-3).backward()
            return loss

        returned = policy.step(optimizer, closure)
        assert returned.requires_grad
        assert not torch.equal(weights(net)[0], before[0])


def test_a_closure_that_skips_the_batch_makes_no_step() -> None:
    net, policy = small_net(), make_precision("16-mixed")
    optimizer = plain_sgd(net)
    assert policy.step(optimizer, lambda: None) is None
    policy.unscale(optimizer)
    assert policy.step(optimizer) is None
    assert policy.state_dict()["_growth_tracker"] == 0


def test_several_optimizers_step_under_one_scale() -> None:
    first, second = small_net(), small_net()
    optimizers = [plain_sgd(first), plain_sgd(second)]
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1)  # the scale changes after every step
    policy = MixedPrecision("16-mixed", "cpu", scaler)
    reference = [small_net(), small_net()]
    reference_optimizers = [plain_sgd(net) for net in reference]
    for batch in batches(3):
        for net in (first, second):
            policy.scale(net(batch).square().mean()).backward()
        policy.unscale(optimizers[0])
        for optimizer in optimizers:
            policy.step(optimizer)
            optimizer.zero_grad()
        for net, optimizer in zip(reference, reference_optimizers, strict=True):
            net(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for net, expected in zip((first, second), reference, strict=True):
        assert all(torch.allclose(a, b, rtol=1e-6) for a, b in zip(weights(net), weights(expected), strict=True))


def test_gradients_of_one_optimizer_may_wait_while_another_loss_is_scaled() -> None:
    first, second = small_net(), small_net()
    optimizers = [plain_sgd(first), plain_sgd(second)]
    policy = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1))
    reference = small_net()
    for net in (first, second, reference):
        loss = net(batches(1)[0]).square().mean()
        (loss if net is reference else policy.scale(loss)).backward()
        if net is first:
            policy.unscale(optimizers[0])
    for optimizer in optimizers:
        policy.step(optimizer)
    plain_sgd(reference).step()
    assert torch.allclose(weights(first)[0], weights(reference)[0], rtol=1e-6)
    assert torch.allclose(weights(second)[0], weights(reference)[0], rtol=1e-6)


def test_a_step_that_the_user_left_out_after_clipping_is_forgotten() -> None:
    net, policy = small_net(), make_precision("16-mixed")
    optimizer = plain_sgd(net)
    policy.scale(net(torch.ones(1, 4)).sum()).backward()
    policy.unscale(optimizer)
    optimizer.zero_grad()  # no step
    policy.scale(net(torch.ones(1, 4)).sum()).backward()
    policy.unscale(optimizer)
    expected = small_net()
    expected(torch.ones(1, 4)).sum().backward()
    for mine, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad)


def test_a_second_step_without_a_scaled_loss_is_an_error() -> None:
    net, policy = small_net(), make_precision("16-mixed")
    optimizer = plain_sgd(net)
    policy.scale(net(torch.ones(1, 4)).sum() * 1e-3).backward()
    policy.step(optimizer)
    net(torch.ones(1, 4)).sum().backward()  # not scaled
    with pytest.raises(MisconfigurationException, match=r"SGD would step a second time.*self.manual_backward\(loss\)"):
        policy.step(optimizer)


def test_lbfgs_works_without_scaling_and_is_refused_with_it() -> None:
    net = small_net()
    optimizer = torch.optim.LBFGS(net.parameters())
    for policy in (make_precision(32), make_precision("bf16-mixed")):

        def closure(policy: Precision = policy) -> Tensor:
            optimizer.zero_grad()
            with policy.forward_context():
                loss: Tensor = net(torch.ones(1, 4)).square().sum()
            loss.backward()
            return loss

        assert policy.step(optimizer, closure) >= 0
    with pytest.raises(Unsupported, match=r"LBFGS evaluates the loss several times.*Use precision='bf16-mixed' or '32-true'"):
        make_precision("16-mixed").step(optimizer, lambda: None)


def test_the_scale_continues_from_a_checkpoint() -> None:
    net, policy = small_net(), make_precision("16-mixed")
    optimizer = plain_sgd(net)
    policy.scale(net(torch.full((1, 4), float("inf"))).sum()).backward()
    policy.step(optimizer)
    state = policy.state_dict()
    resumed = make_precision("16-mixed")
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert resumed.scale(torch.ones(())).item() == 2.0**15
    make_precision("bf16-mixed").load_state_dict({})
    assert make_precision("bf16-mixed").state_dict() == {}


def test_a_subclass_of_the_users_own_runs() -> None:
    class Doubled(Precision):
        name = "doubled"
        scales = True

        def scale(self, loss: Tensor) -> Tensor:
            return 2 * loss

    weight = torch.ones(1, requires_grad=True)
    policy = Doubled()
    policy.backward(policy.scale(weight.sum()), None, None)
    assert weight.grad is not None
    assert weight.grad.item() == 2.0


def test_methods_of_a_subclass_are_called_whether_it_says_so_or_not() -> None:
    class Noting(Precision):
        told = 0

        def convert_input(self, data: Any) -> Any:
            self.told += 1
            return super().convert_input(data)

        def forward_context(self) -> Any:
            self.told += 100
            return super().forward_context()

        def scale(self, loss: Tensor) -> Tensor:
            self.told += 10_000
            return loss

    class Silent(Noting):
        converts_input = has_forward_context = scales = False

    for cls, told in ((Noting, 20_202), (Silent, 0)):
        policy = cls()
        options = {**kit.QUIET, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 0, "plugins": policy}
        Trainer(**options).fit(BoringModel())
        assert policy.told == told


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_16_mixed_on_a_gpu() -> None:
    net, policy = small_net().cuda(), make_precision("16-mixed", "cuda")
    optimizer, before = fused_adamw(net), weights(net)
    for batch in batches(4):
        with policy.forward_context():
            loss = net(batch.cuda()).square().mean()
        policy.backward(policy.scale(loss), net, optimizer)
        policy.unscale(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        policy.step(optimizer)
        optimizer.zero_grad()
    assert not torch.equal(weights(net)[0], before[0])


@pytest.mark.parametrize("name", ["64-true", "16-true", "bf16-true"])
def test_complex_tensors_keep_their_imaginary_part(name: str):
    class Rotation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.real = nn.Parameter(torch.ones(2))
            self.weight = nn.Parameter(torch.full((2,), 1 + 1j))
            self.register_buffer("phases", torch.full((2,), 1 + 1j))
            self.register_buffer("count", torch.zeros(2, dtype=torch.int64))

    policy = make_precision(name)
    module = policy.convert_module(nn.Sequential(Rotation()))[0]  # type: ignore[index]  # a Sequential
    assert (module.real.dtype, module.count.dtype) == (policy.dtype, torch.int64)
    for kept in (module.weight, module.phases):
        assert (kept.dtype, kept[0].item()) == (torch.complex64, 1 + 1j)
    assert policy.convert_input(torch.full((2,), 1 + 1j)).dtype is torch.complex64


def test_a_module_whose_inputs_are_converted() -> None:
    class Module(BoringModel):
        def training_step(self, batch: Any, batch_idx: int, *, scale: Any = None) -> Any:
            return batch["x"].dtype, batch["n"].dtype, batch_idx, scale.dtype

        validation_step = test_step = predict_step = forward = training_step  # type: ignore[assignment]  # called by hand

    wrapped = LightningDoublePrecisionModule(Module())
    batch = {"x": torch.ones(2), "n": torch.ones(2, dtype=torch.int64)}
    for step in (wrapped.training_step, wrapped.validation_step, wrapped.test_step, wrapped.predict_step, wrapped):
        assert step(batch, 3, scale=torch.ones(1)) == (torch.float64, torch.int64, 3, torch.float64)
    assert next(wrapped.parameters()).dtype == wrapped.dtype == torch.float32
    assert wrapped.device == torch.device("cpu")
