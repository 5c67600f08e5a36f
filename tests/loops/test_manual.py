"""Manual optimization: the module steps, and steps are counted, hooks fired and precision heeded all the same."""

from __future__ import annotations

from typing import Any

import kit
import pytest
import torch
from kit import same
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.errors import (
    ConflictingOptions,
    InvalidReturn,
    InvalidType,
    LeydenWarning,
    MisconfigurationException,
    NonFiniteLoss,
    PossibleUserWarning,
)
from leyden.testing import BoringModel, Recorder, random_batches

DATA = torch.arange(24.0).reshape(6, 4) / 24


def parts() -> nn.ModuleDict:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.ModuleDict({name: nn.Linear(4, 1) for name in "abc"})


class Module(leyden.LightningModule):
    """Three layers. ``make`` returns the optimizers; subclasses say what a step does."""

    def __init__(self, names: str = "a") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.parts = parts()
        self.names = names

    def loss(self, batch: Tensor, names: str | None = None) -> Tensor:
        out = torch.stack([self.parts[name](batch) for name in names or self.names]).sum(0)
        return out.square().mean()

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return SGD(self.parts["a"].parameters(), lr=0.1)


def fit(module: Module, **options: Any) -> leyden.Trainer:
    return kit.fit(module, DataLoader(DATA, batch_size=1), **options)  # type: ignore[arg-type]


def test_epochs_without_a_step_are_said_where_only_steps_would_end_them() -> None:
    class Idle(Module):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if self.current_epoch == 2:
                self.optimizers().step()

    with pytest.warns(LeydenWarning, match=r"No optimizer stepped in epoch 0, and max_steps=2 alone limits") as told:
        assert fit(Idle(), max_steps=2, max_epochs=-1).global_step == 2
    assert len(told) == 1
    fit(Idle(), max_steps=2, max_epochs=2)


def by_hand(names: str, step: Any, make: Any = lambda parameters: SGD(parameters, lr=0.1)) -> nn.ModuleDict:
    layers = parts()
    optimizers = [make(layers[name].parameters()) for name in names]
    for index, batch in enumerate(DATA.split(1)):
        step(layers, optimizers, batch, index)
    return layers


def plain(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
    for optimizer in optimizers:
        loss = torch.stack([layers["abc"[i]](batch) for i in range(len(optimizers))]).sum(0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class TestOneOptimizer:
    def test_as_by_hand(self) -> None:
        heard = Recorder()
        module = Module()
        trainer = fit(module, callbacks=heard)
        assert same(module.parts, by_hand("a", plain))
        assert trainer.global_step == 6
        batch = heard.names[heard.names.index("on_train_batch_start") :][:5]
        assert batch == [
            *("on_train_batch_start", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
            "on_train_batch_end",
        ]

    def test_a_closure_that_is_none(self) -> None:
        class Wrong(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                self.optimizers().step(closure=self.loss(batch))

        with pytest.raises(MisconfigurationException, match=r"closure=tensor\(.* cannot be used: expected a function that"):
            fit(Wrong())

    def test_what_is_given_to_the_step_reaches_the_optimizer(self) -> None:
        class Shrinking(SGD):
            def step(self, closure: Any = None, *, by: float = 1.0) -> Any:
                for group in self.param_groups:
                    torch._foreach_mul_([parameter.data for parameter in group["params"]], by)
                return super().step(closure)

        def shrink(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
            optimizers[0].zero_grad()
            torch.stack([layers["a"](batch)]).sum(0).square().mean().backward()
            optimizers[0].step(by=0.5)

        class Given(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step(by=0.5)

            def configure_optimizers(self) -> Any:
                return Shrinking(self.parts["a"].parameters(), lr=0.1)

        module = Given()
        assert fit(module).global_step == 6
        assert same(module.parts, by_hand("a", shrink, lambda parameters: Shrinking(parameters, lr=0.1)))

    def test_by_a_closure(self) -> None:
        class ByClosure(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                optimizer = self.optimizers()

                def closure() -> Tensor:
                    loss = self.loss(batch)
                    optimizer.zero_grad()
                    self.manual_backward(loss)
                    return loss

                returned = optimizer.step(closure=closure)
                assert isinstance(returned, Tensor)

        module = ByClosure()
        assert fit(module).global_step == 6
        assert same(module.parts, by_hand("a", plain))

    def test_the_bare_optimizer_is_counted_too(self) -> None:
        class Bare(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                optimizer = self.optimizers(use_pl_optimizer=False)
                assert type(optimizer) is SGD
                loss = self.loss(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        module, heard = Bare(), Recorder()
        trainer = fit(module, callbacks=heard, max_steps=4, max_epochs=-1)
        assert trainer.global_step == 4
        assert "on_before_optimizer_step" not in heard.names
        trainer.optimizers[0].step()
        assert trainer.global_step == 4

    def test_optimizers_that_were_never_returned(self) -> None:
        class Own(Module):
            def on_fit_start(self) -> None:
                self.own = SGD(self.parts["a"].parameters(), lr=0.1)

            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                assert self.optimizers() == []
                self.own.zero_grad()
                self.loss(batch).backward()
                self.own.step()

            def configure_optimizers(self) -> None:
                return None

        module = Own()
        trainer = fit(module, max_steps=5)
        assert trainer.global_step == 5
        assert same(module.parts, by_hand("a", lambda layers, o, b, i: plain(layers, o, b, i) if i < 5 else None))

    def test_accumulating_by_hand_counts_steps(self) -> None:
        class Accumulating(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                optimizer = self.optimizers()
                self.manual_backward(self.loss(batch) / 2)
                if batch_idx % 2:
                    optimizer.step()
                    optimizer.zero_grad()

        def step(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
            (layers["a"](batch).square().mean() / 2).backward()
            if index % 2:
                optimizers[0].step()
                optimizers[0].zero_grad()

        module = Accumulating()
        assert fit(module).global_step == 3
        assert same(module.parts, by_hand("a", step))

    @pytest.mark.parametrize("algorithm", ["norm", "value"])
    def test_clipping(self, algorithm: str) -> None:
        class Clipping(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                optimizer = self.optimizers()
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm)
                optimizer.step()

        clip = nn.utils.clip_grad_norm_ if algorithm == "norm" else nn.utils.clip_grad_value_

        def step(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
            optimizers[0].zero_grad()
            layers["a"](batch).square().mean().backward()
            clip(layers["a"].parameters(), 0.05)  # type: ignore[operator]
            optimizers[0].step()

        module = Clipping()
        fit(module)
        assert same(module.parts, by_hand("a", step))

    def test_schedulers_are_the_users_to_step(self) -> None:
        rates: list[float] = []

        class Scheduled(Module):
            def configure_optimizers(self) -> Any:
                optimizer = SGD(self.parts["a"].parameters(), lr=1.0)
                plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
                return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), plateau]

            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                every, plateau = self.lr_schedulers()
                super().training_step(batch, batch_idx)
                rates.append(self.optimizers().param_groups[0]["lr"])
                if batch_idx % 2:
                    every.step()
                plateau.step(1.0)

        fit(Scheduled())
        assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]

    def test_no_scheduler_and_one(self) -> None:
        module = Module()
        fit(module)
        assert module.lr_schedulers() is None

    @pytest.mark.parametrize(("returned", "told"), [(None, {}), ({"x": 1}, {"x": 1}), (torch.ones(3, requires_grad=True), None)])
    def test_a_tensor_a_dict_and_nothing_are_fine(self, returned: Any, told: Any) -> None:
        outputs: list[Any] = []

        class Returning(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                super().training_step(batch, batch_idx)
                return returned

        fit(Returning(), callbacks=Recorder(on_train_batch_end=lambda t, m, output, *_: outputs.append(output)))
        if told is None:
            assert torch.equal(outputs[0]["loss"], torch.ones(3))
            assert not outputs[0]["loss"].requires_grad
        else:
            assert outputs == [told] * 6

    def test_retaining_the_graph(self) -> None:
        class Retaining(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                loss = self.loss(batch)
                self.manual_backward(loss, retain_graph=True)
                self.manual_backward(loss)

        module = Retaining()
        assert fit(module).global_step == 0


class TestSeveralOptimizers:
    def test_two_in_turn_with_toggling(self) -> None:
        class Adversarial(Module):
            def configure_optimizers(self) -> Any:
                return SGD(self.parts["a"].parameters(), lr=0.1), Adam(self.parts["b"].parameters(), lr=0.01)

            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                first, second = self.optimizers()
                self.toggle_optimizer(first)
                assert [p.requires_grad for n in "ab" for p in self.parts[n].parameters()] == [True, True, False, False]
                first.zero_grad()
                self.manual_backward(self.loss(batch, "ab"))
                first.step()
                self.untoggle_optimizer(first)
                with self.toggled_optimizer(second):
                    assert [p.requires_grad for n in "ab" for p in self.parts[n].parameters()] == [False, False, True, True]
                    second.zero_grad()
                    self.manual_backward(self.loss(batch, "ab"))
                    second.step()
                assert all(p.requires_grad for p in self.parameters())

        def step(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
            for optimizer in optimizers:
                layers.zero_grad()
                (layers["a"](batch) + layers["b"](batch)).square().mean().backward()
                optimizer.step()

        module = Adversarial()
        trainer = fit(module)
        makers = iter([lambda p: SGD(p, lr=0.1), lambda p: Adam(p, lr=0.01)])
        assert same(module.parts, by_hand("ab", step, lambda p: next(makers)(p)))
        assert trainer.global_step == 6

    def test_toggling_keeps_frozen_parameters_frozen(self) -> None:
        seen: list[list[bool]] = []

        class Frozen(Module):
            def configure_optimizers(self) -> Any:
                self.parts["a"].bias.requires_grad_(False)
                return [SGD(self.parts[name].parameters(), lr=0.1) for name in "ab"]

            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                with self.optimizers()[0].toggle_model():
                    seen.append([p.requires_grad for n in "ab" for p in self.parts[n].parameters()])
                seen.append([p.requires_grad for n in "ab" for p in self.parts[n].parameters()])

        fit(Frozen(), limit_train_batches=1)
        assert seen == [[True, False, False, False], [True, False, True, True]]

    def test_a_parameter_of_two_optimizers_stays_on_for_both(self) -> None:
        class Shared(Module):
            def configure_optimizers(self) -> Any:
                return [SGD(self.parts["a"].parameters(), lr=0.1), SGD(self.parameters(), lr=0.1)]

            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                with self.toggled_optimizer(self.optimizers()[1]):
                    assert all(p.requires_grad for p in self.parameters())
                with self.toggled_optimizer(self.optimizers()[0]):
                    assert sum(p.requires_grad for p in self.parameters()) == 2

        assert fit(Shared(), limit_train_batches=1).global_step == 0

    def test_a_batch_counts_as_one_step(self) -> None:
        class Three(Module):
            def configure_optimizers(self) -> Any:
                return [SGD(self.parts[name].parameters(), lr=0.1) for name in "abc"]

            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                for optimizer in self.optimizers():
                    optimizer.zero_grad()
                    self.manual_backward(self.loss(batch, "abc"))
                    optimizer.step()

        module, heard = Three(), Recorder()
        trainer = fit(module, callbacks=heard)
        assert same(module.parts, by_hand("abc", plain))
        assert trainer.global_step == 6
        assert heard.names.count("on_before_optimizer_step") == 18
        with pytest.warns(PossibleUserWarning, match="3 optimizers stepped"):
            assert fit(Three(), max_steps=4).global_step == 4


class TestPrecision:
    @pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "bf16-true"])
    def test_without_a_scaler(self, precision: str) -> None:
        dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision)

        def step(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
            if dtype is not None:
                batch = batch.to(dtype)
            optimizers[0].zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
                loss = layers["a"](batch).unsqueeze(0).sum(0).square().mean()
            loss.backward()
            optimizers[0].step()

        module = Module()
        fit(module, precision=precision)
        layers = parts() if dtype is None else parts().to(dtype)
        optimizer = SGD(layers["a"].parameters(), lr=0.1)
        for index, batch in enumerate(DATA.split(1)):
            step(layers, [optimizer], batch, index)
        assert same(module.parts, layers)

    @pytest.mark.parametrize("closure", [False, True])
    def test_with_a_scaler(self, closure: bool) -> None:
        class Mine(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                if not closure:
                    return super().training_step(batch, batch_idx)
                optimizer = self.optimizers()

                def forward() -> Tensor:
                    optimizer.zero_grad()
                    loss = self.loss(batch)
                    self.manual_backward(loss)
                    return loss

                optimizer.step(forward)
                return None

        layers = parts()
        optimizer = SGD(layers["a"].parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu")
        for batch in DATA.split(1):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = layers["a"](batch).unsqueeze(0).sum(0).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        module = Mine()
        trainer = fit(module, precision="16-mixed")
        assert same(module.parts, layers)
        assert trainer.global_step == 6

    def test_a_second_step_under_one_scale_is_refused(self) -> None:
        class Twice(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                super().training_step(batch, batch_idx)
                self.optimizers().step()

        with pytest.raises(MisconfigurationException, match="would step a second time"):
            fit(Twice(), precision="16-mixed")


@pytest.mark.parametrize(
    "give", [lambda loss: loss, lambda loss: {"loss": loss, "more": 1}, lambda loss: {"loss": loss.detach()}]
)
def test_a_loss_that_is_not_finite_ends_the_run(give: Any) -> None:
    class Bursts(Module):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            loss = self.loss(batch)
            return give(loss / 0 if batch_idx == 2 else loss)

    with pytest.raises(NonFiniteLoss, match="batch 2"):
        fit(Bursts())


def test_a_loss_that_is_written_over_was_noted_as_it_was() -> None:
    class Reuses(Module):
        last = torch.zeros(())  # as a CUDA graph keeps one place for its result

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            super().training_step(batch, batch_idx)
            return self.last.fill_(torch.inf if batch_idx == 2 else batch_idx)

    with pytest.raises(NonFiniteLoss, match=r"became inf in training batch 2 .*Losses before it: 0, 1\."):
        fit(Reuses())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_as_they_are_and_not_as_they_are_scaled(algorithm: Any) -> None:
    """A threshold that no gradient reaches changes nothing, and one that they reach holds."""

    class Clips(Module):
        threshold = 0.0

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            if self.threshold:
                self.clip_gradients(optimizer, gradient_clip_val=self.threshold, gradient_clip_algorithm=algorithm)
                gradients = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])
                # until the scale has settled they are infinite, and the step is left out
                assert not gradients.isfinite().all() or 0 < float(gradients.abs().max()) <= self.threshold
            optimizer.step()

    free, loose, tight = Clips("ab"), Clips("ab"), Clips("ab")
    loose.threshold, tight.threshold = 100.0, 1e-3
    for module in (free, loose, tight):
        fit(module, precision="16-mixed")
    assert same(free, loose)
    assert not same(free, tight)


class TestRefusals:
    def test_accumulation_by_the_trainer(self) -> None:
        for given in (2, {1: 2}):
            with pytest.raises(ConflictingOptions, match=r"accumulate_grad_batches=.* does not go with manual optimization"):
                fit(Module(), accumulate_grad_batches=given)

    def test_clipping_by_the_trainer(self) -> None:
        with pytest.raises(ConflictingOptions, match=r"gradient_clip_val=1.0 does not go with manual optimization"):
            fit(Module(), gradient_clip_val=1.0)

    def test_outside_fit(self) -> None:
        module = Module()
        fit(module)
        with pytest.raises(MisconfigurationException, match=r"manual_backward\(\) works inside fit only"):
            module.manual_backward(torch.ones((), requires_grad=True))
        assert type(module.optimizers()) is SGD

    @pytest.mark.parametrize(
        ("call", "says"),
        [
            (lambda module: module.manual_backward(None), "loss=None cannot be used: expected a tensor"),
            (lambda module: module.manual_backward({"loss": 1}), "loss={'loss': 1} cannot be used: expected a tensor"),
            (
                lambda module: module.toggle_optimizer(3),
                "optimizer=3 cannot be used: expected an optimizer, as self.optimizers()",
            ),
            (lambda module: module.toggle_optimizer([module.optimizers()]), r"(?s)optimizer=\[.* cannot be used"),
            (lambda module: module.untoggle_optimizer("x"), "optimizer='x' cannot be used: expected an optimizer"),
            (lambda module: module.clip_gradients(None, 1.0), "optimizer=None cannot be used: expected an optimizer"),
            (
                lambda module: module.clip_gradients(module.optimizers(), "x"),
                "gradient_clip_val='x' cannot be used: expected a num",
            ),
        ],
    )
    def test_what_is_no_loss_no_optimizer_and_no_number(self, call: Any, says: str) -> None:
        class Wrong(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                call(self)

        with pytest.raises(InvalidType, match=says):
            fit(Wrong())

    @pytest.mark.parametrize(
        ("loss", "says"),
        [(torch.ones(2, requires_grad=True), r"a loss of shape \(2,\)"), (torch.ones(()), "a loss without a gradient")],
    )
    def test_what_cannot_be_differentiated(self, loss: Tensor, says: str) -> None:
        class Wrong(Module):
            def training_step(self, batch: Tensor, batch_idx: int) -> Any:
                self.manual_backward(loss)

        with pytest.raises(InvalidReturn, match=f"Wrong gave manual_backward {says}"):
            fit(Wrong())


# How steps are counted


class Pair(Module):
    def __init__(self) -> None:
        super().__init__("ab")

    def configure_optimizers(self) -> Any:
        return [SGD(self.parts[name].parameters(), lr=0.1) for name in "ab"]

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


class Alternating(Pair):
    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.manual_backward(loss)
        self.optimizers()[batch_idx % 2].step()


class StepWise(Pair):
    def configure_optimizers(self) -> Any:
        optimizers = super().configure_optimizers()
        return optimizers, [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizers[0], 1), "interval": "step"}]


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (
            Pair,
            {"max_steps": 4},
            r"2 optimizers stepped in this batch, and global_step, 1 now, counts it as 1 .*max_steps=4 counts",
        ),
        (
            Pair,
            {"callbacks": [ModelCheckpoint(every_n_train_steps=2)], "enable_checkpointing": True},
            "every_n_train_steps=2 counts",
        ),
        (StepWise, {}, "a schedule with interval='step' counts"),
    ],
)
def test_what_goes_by_steps_is_said_once_with_both_numbers(module: Any, options: dict[str, Any], says: str) -> None:
    with pytest.warns(PossibleUserWarning, match=says) as caught:
        fit(module(), **options)
    assert len([each for each in caught if "global_step" in str(each.message)]) == 1


def test_nothing_is_said_where_nothing_goes_by_steps() -> None:
    fit(Pair())
    fit(Alternating(), max_steps=4)
    fit(Module(), max_steps=4)


# What PyTorch does by itself is done by the shortest way; what anybody put there instead is asked


class OwnZeroGrad(SGD):
    calls = 0

    def zero_grad(self, set_to_none: bool = True) -> None:
        OwnZeroGrad.calls += 1
        super().zero_grad(set_to_none)


@pytest.mark.parametrize("where", ["class", "instance", "profiler"])
def test_zero_grad_of_ones_own_is_called_and_a_profiler_sees_it(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Own(Module):
        def configure_optimizers(self) -> Any:
            optimizer = (OwnZeroGrad if where == "class" else SGD)(self.parts["a"].parameters(), lr=0.1)
            if where == "instance":
                monkeypatch.setattr(optimizer, "zero_grad", lambda set_to_none=True: calls.append(1))
            return optimizer

    OwnZeroGrad.calls = 0
    if where == "profiler":
        with torch.profiler.profile() as seen:
            fit(Own(), max_steps=2)
        calls = [1 for event in seen.events() if event.name == "Optimizer.zero_grad#SGD.zero_grad"]
    else:
        fit(Own(), max_steps=2)
    assert len(calls) + OwnZeroGrad.calls == 2


def test_gradients_set_to_zero_and_not_let_go_of() -> None:
    kept: list[Any] = []

    class Zeroing(Module):
        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            parameters: list[Any] = list(self.parts["a"].parameters())
            self.manual_backward(self.loss(batch))
            optimizer.zero_grad(set_to_none=False)
            kept.append([float(each.grad.abs().sum()) for each in parameters])
            optimizer.zero_grad()
            kept.append([each.grad for each in parameters])

    fit(Zeroing(), max_epochs=1, limit_train_batches=1)
    assert kept == [[0.0, 0.0], [None, None]]


def test_a_backward_of_the_modules_own_is_called() -> None:
    class Backward(Module):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            (2 * loss).backward(*args, **kwargs)

    def doubled(layers: Any, optimizers: Any, batch: Tensor, index: int) -> None:
        optimizers[0].zero_grad()
        (2 * layers["a"](batch).square().mean()).backward()
        optimizers[0].step()

    module = Backward()
    fit(module)
    assert same(module.parts["a"], by_hand("a", doubled)["a"])


def test_a_scheduler_of_what_optimizers_returns() -> None:
    class Scheduled(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=0.1)

        def on_train_start(self) -> None:
            self.own = torch.optim.lr_scheduler.StepLR(self.optimizers(), 1)  # type: ignore[arg-type]  # one optimizer

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.manual_backward(self.step(batch))
            self.optimizers().step()  # type: ignore[union-attr]  # as above
            self.own.step()

    run = kit.trainer(limit_val_batches=0)
    run.fit(Scheduled(), random_batches(3))
    assert run.global_step == 3
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)
