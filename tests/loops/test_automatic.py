"""Automatic optimization: the same bits as the loop that one would write by hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Stream, same
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.errors import ConflictingOptions, InvalidReturn, LeydenWarning, UnknownName
from leyden.loggers import CSVLogger
from leyden.profilers import SimpleProfiler
from leyden.testing import Recorder


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [(torch.randn(4, 3, generator=generator), torch.randn(4, 1, generator=generator)) for _ in range(count)]


def loader(count: int) -> DataLoader[Any]:
    data = batches(count)
    return DataLoader(TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])), batch_size=4)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.2), nn.Tanh(), nn.Linear(5, 1))


Make = Callable[[Any], Optimizer]


class Module(leyden.LightningModule):
    """A small net with dropout, so that order and number of random draws matter."""

    def __init__(self, make: Make = lambda parameters: SGD(parameters, lr=0.1)) -> None:
        super().__init__()
        self.net = net()
        self.make = make

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)

    def configure_optimizers(self) -> Any:
        return self.make(self.net.parameters())


def fit(module: leyden.LightningModule, data: Any = 6, ckpt_path: Any = None, **options: Any) -> leyden.Trainer:
    trainer = kit.trainer(**{"max_epochs": 2, "limit_val_batches": 0, **options})
    torch.manual_seed(3)
    trainer.fit(module, loader(data) if isinstance(data, int) else data, ckpt_path=ckpt_path)
    return trainer


def by_hand(
    make: Make,
    count: int = 6,
    epochs: int = 2,
    window: Callable[[int], int] = lambda epoch: 1,
    before_step: Callable[[nn.Module], Any] = lambda model: None,
    skip: Callable[[int], bool] = lambda index: False,
) -> nn.Module:
    """A loop of one's own: accumulation by ``window(epoch)``, clipping in ``before_step``, batches left out by ``skip``."""
    model = net()
    optimizer = make(model.parameters())
    torch.manual_seed(3)
    for epoch in range(epochs):
        data = [batch for index, batch in enumerate(loader(count)) if not skip(index)]
        size = window(epoch)
        for start in range(0, len(data), size):
            chosen = data[start : start + size]
            optimizer.zero_grad()
            for x, y in chosen:
                loss = nn.functional.mse_loss(model(x), y)
                (loss / len(chosen) if len(chosen) > 1 else loss).backward()
            before_step(model)
            optimizer.step()
    return model


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: Adam(p, lr=0.01),
    "adamw": lambda p: AdamW(p, lr=0.01),
    "fused": lambda p: AdamW(p, lr=0.01, fused=True),
    "foreach": lambda p: Adam(p, lr=0.01, foreach=True),
    "groups": lambda p: SGD([{"params": list(p)[:2], "lr": 0.3}], lr=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}
CLIPS: dict[str, tuple[dict[str, Any], Callable[[nn.Module], Any]]] = {
    "none": ({}, lambda model: None),
    "norm": ({"gradient_clip_val": 0.1}, lambda model: nn.utils.clip_grad_norm_(model.parameters(), 0.1)),
    "value": (
        {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
        lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.05),
    ),
}


class TestTheSameBits:
    @pytest.mark.parametrize("window", [1, 2, 4, 5, 9])
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_optimizers_and_accumulation(self, name: str, window: int) -> None:
        make = OPTIMIZERS[name]
        module = Module(make)
        trainer = fit(module, accumulate_grad_batches=window)
        assert same(module.net, by_hand(make, window=lambda epoch: window))
        assert trainer.global_step == 2 * -(-6 // window)

    @pytest.mark.parametrize("clip", CLIPS)
    @pytest.mark.parametrize("window", [1, 4])
    def test_clipping(self, clip: str, window: int) -> None:
        options, before_step = CLIPS[clip]
        if clip == "norm" and window == 1:
            options = {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "norm"}
        module = Module(OPTIMIZERS["groups"] if clip == "none" else OPTIMIZERS["sgd"])
        fit(module, accumulate_grad_batches=window, **options)
        assert same(module.net, by_hand(module.make, window=lambda epoch: window, before_step=before_step))

    def test_a_schedule_of_accumulation(self) -> None:
        module = Module(OPTIMIZERS["sgd"])
        trainer = fit(module, max_epochs=5, accumulate_grad_batches={1: 4, 3: 2})
        sizes = [1, 4, 4, 2, 2]
        assert same(module.net, by_hand(module.make, epochs=5, window=lambda epoch: sizes[epoch]))
        assert trainer.global_step == 6 + 2 + 2 + 3 + 3 == trainer.estimated_stepping_batches

    def test_validation_changes_nothing(self) -> None:
        module = Module(OPTIMIZERS["adam"])
        trainer = kit.trainer(max_epochs=2, val_check_interval=2)
        torch.manual_seed(3)
        trainer.fit(module, loader(6), loader(3))
        assert same(module.net, by_hand(module.make))

    def test_anomaly_detection_changes_nothing(self) -> None:
        module = Module()
        fit(module, detect_anomaly=True)
        assert same(module.net, by_hand(module.make))
        assert not torch.is_anomaly_enabled()

    def test_a_compiled_module_is_trained_as_itself(self) -> None:
        module = Module()
        compiled = torch.compile(module, backend="eager")
        trainer = kit.trainer(max_epochs=2, limit_val_batches=0)
        torch.manual_seed(3)
        trainer.fit(compiled, loader(6))
        assert trainer.lightning_module is module
        assert same(module.net, by_hand(module.make))

    def test_a_compiled_part(self) -> None:
        module = Module()
        module.net.compile(backend="eager")
        fit(module)
        assert same(module.net, by_hand(module.make))

    def test_a_dict_with_the_loss(self) -> None:
        class Returning(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return {"loss": self.loss(batch), "other": 1}

        module = Returning()
        fit(module)
        assert same(module.net, by_hand(module.make))


class Unsized(Stream):
    def __init__(self, count: int) -> None:
        super().__init__(batches(count))
        self.count = count


class Promising(Unsized):
    """Says that it has more than it has."""

    def __len__(self) -> int:
        return self.count + 3


def test_a_save_inside_a_backward_of_the_modules_own_has_the_forward_behind_it(tmp_path: Path) -> None:
    class Saves(Module):
        forwards = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.forwards += 1
            return super().training_step(batch, batch_idx)

        def backward(self, loss: Tensor) -> None:  # type: ignore[override]  # as users write it
            if self.forwards == 3:
                self.trainer.save_checkpoint(tmp_path / "inside.ckpt")
            loss.backward()

    whole, resumed = Saves(), Saves()
    fit(whole, 4, max_epochs=1)
    resumed.forwards = 10
    fit(resumed, 4, max_epochs=1, ckpt_path=tmp_path / "inside.ckpt")
    assert same(whole, resumed)
    assert resumed.forwards - 10 in (1, 4)  # the third batch's was done, or is done again


def test_an_optimizers_own_zero_grad_is_measured_by_its_name() -> None:
    class Own(SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            super().zero_grad(set_to_none)

    profiler = SimpleProfiler()
    fit(Module(lambda parameters: Own(parameters, lr=0.1)), 3, max_epochs=1, profiler=profiler)
    (name,) = [each for each in profiler.recorded_durations if "zero_grad" in each and "before" not in each]
    assert name.endswith(".optimizer_zero_grad")
    assert len(profiler.recorded_durations[name]) == 3


class Logged(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


class TestShortWindows:
    @pytest.mark.parametrize("kind", [Unsized, Promising])
    @pytest.mark.parametrize(("count", "window"), [(5, 2), (6, 4), (3, 4)])
    def test_scaled_by_their_own_length_where_nobody_knew_it(self, kind: type[Unsized], count: int, window: int) -> None:
        module = Module(OPTIMIZERS["sgd"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeydenWarning)
            trainer = fit(module, DataLoader(kind(count), batch_size=None), accumulate_grad_batches=window)
        hand = by_hand(module.make, count, window=lambda epoch: window)
        for mine, theirs in zip(module.net.parameters(), hand.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
        assert trainer.global_step == 2 * -(-count // window)

    @pytest.mark.parametrize(("kind", "steps"), [(Unsized, [0, 1, 2, 3]), (Promising, [0, 2])])
    def test_the_step_of_a_short_window_is_one_on_the_loggers_axis(
        self, kind: type[Unsized], steps: list[int], tmp_path: Path
    ) -> None:
        """Epochs of 3 batches in windows of 2. Where nobody knew that the data would end, the step has no row of its own."""
        logger = CSVLogger(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LeydenWarning)
            fit(Logged(), DataLoader(kind(3), batch_size=None), accumulate_grad_batches=2, logger=logger, log_every_n_steps=1)
        assert [int(row["step"]) for row in kit.rows(logger.log_dir) if row["loss"]] == steps

    def test_a_loader_that_ends_early_says_so(self) -> None:
        with pytest.warns(LeydenWarning, match=r"ended after 3 of the 6 batches that it said it has \(epoch 0\)"):
            fit(Module(), DataLoader(Promising(3), batch_size=None), max_epochs=1)

    def test_the_step_goes_through_the_modules_own_optimizer_step(self) -> None:
        steps: list[int] = []

        class Counting(Module):
            def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
                steps.append(batch_idx)
                optimizer.step(closure=optimizer_closure)

        module, plain = Counting(), Module()
        for each in (module, plain):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LeydenWarning)
                fit(each, DataLoader(Promising(3), batch_size=None), accumulate_grad_batches=2, max_epochs=1)
        assert steps == [1, 2]
        assert same(module, plain)

    def test_an_optimizer_without_a_closure_gives_an_override_the_loss_too(self) -> None:
        class Plain(SGD):
            def step(self) -> None:  # type: ignore[override]
                super().step()

        class Returned(Module):
            losses: tuple[Any, ...] = ()

            def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
                self.losses += (optimizer.step(closure=optimizer_closure),)

        module, told = Returned(lambda parameters: Plain(parameters, lr=0.1)), []
        hear = Recorder(on_train_batch_end=lambda run, module, outputs, *_: told.append(float(outputs["loss"])))
        fit(module, 3, max_epochs=1, callbacks=[hear])
        assert [float(loss) for loss in module.losses] == told
        assert len(told) == 3

    def test_a_closure_of_ones_own_is_the_one_that_is_called(self) -> None:
        losses: list[float] = []

        class Wrapping(Module):
            def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
                def closure() -> Any:
                    loss = optimizer_closure()
                    losses.append(loss.item())
                    return loss

                optimizer.step(closure=closure)

        module, plain = Wrapping(), Module()
        for each in (module, plain):
            torch.manual_seed(3)
            fit(each, loader(3), max_epochs=1)
        assert len(losses) == 3
        assert same(module, plain)

    def test_gradients_are_complete_before_the_step(self) -> None:
        """What ``on_before_optimizer_step`` sees is the window's mean, unclipped."""
        seen: list[Tensor] = []

        class Watching(Module):
            def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
                seen.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).clone())

        fit(Watching(lambda p: SGD(p, lr=0.0)), 3, accumulate_grad_batches=2, max_epochs=1, gradient_clip_val=1e-3)
        model = net()
        torch.manual_seed(3)
        grads = []
        for x, y in loader(3):
            model.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        torch.testing.assert_close(seen[0], (grads[0] + grads[1]) / 2)
        torch.testing.assert_close(seen[1], grads[2])


class Skipping(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 3 == 1 else self.loss(batch)


def own_step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
    optimizer.step(closure=optimizer_closure)


class TestSkippedBatches:
    @pytest.mark.parametrize("name", ["sgd", "adam"])
    @pytest.mark.parametrize("overridden", [False, True])
    def test_none_leaves_the_batch_out(self, name: str, overridden: bool) -> None:
        kind = type("Mine", (Skipping,), {"optimizer_step": own_step}) if overridden else Skipping
        module = kind(OPTIMIZERS[name])
        trainer = fit(module)
        assert same(module.net, by_hand(module.make, skip=lambda index: index % 3 == 1))
        assert trainer.global_step == 8

    @pytest.mark.parametrize("overridden", [False, True])
    def test_a_window_is_the_mean_of_what_is_left(self, overridden: bool) -> None:
        kind = type("Mine", (Skipping,), {"optimizer_step": own_step}) if overridden else Skipping
        module = kind(lambda p: SGD(p, lr=0.1))
        trainer = fit(module, accumulate_grad_batches=3)
        hand = by_hand(module.make, skip=lambda index: index % 3 == 1, window=lambda epoch: 2)
        for mine, theirs in zip(module.net.parameters(), hand.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)
        assert trainer.global_step == 4

    def test_schedulers_and_hooks_follow_steps_not_batches(self) -> None:
        class Scheduled(Skipping):
            def configure_optimizers(self) -> Any:
                optimizer = SGD(self.parameters(), lr=1.0)
                return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5), "interval": "step"}]

        module, heard = Scheduled(), Recorder()
        trainer = fit(module, callbacks=heard, max_epochs=1)
        assert trainer.optimizers[0].param_groups[0]["lr"] == 0.5**4
        assert heard.names.count("on_before_optimizer_step") == 4
        assert heard.names.count("on_train_batch_end") == 6

    @pytest.mark.parametrize("overridden", [False, True])
    def test_an_epoch_of_none(self, overridden: bool) -> None:
        class Nothing(Module):
            def training_step(self, batch: Any, batch_idx: int) -> None:
                return None

        kind = type("Mine", (Nothing,), {"optimizer_step": own_step}) if overridden else Nothing
        module = kind(OPTIMIZERS["adam"])
        seen: list[Any] = []
        watch = Recorder(on_train_batch_end=lambda trainer, module, outputs, *_: seen.append(outputs))
        with pytest.warns(LeydenWarning, match="returned None for each of the 6 batches of epoch 0: no step was taken"):
            trainer = fit(module, callbacks=watch)
        assert same(module.net, net())
        assert (trainer.global_step, trainer.current_epoch) == (0, 2)
        assert seen == [{}] * 12

    def test_epochs_that_are_left_at_their_first_batch_end_a_run_that_only_steps_limit(self) -> None:
        leave = Recorder(on_train_batch_start=lambda *_: -1)
        with pytest.warns(LeydenWarning, match="There was no batch of epoch 0: no step was taken.* it ends here"):
            trainer = fit(Module(OPTIMIZERS["adam"]), callbacks=leave, max_epochs=-1, max_steps=3)
        assert (trainer.global_step, trainer.current_epoch) == (0, 1)
        assert fit(Module(OPTIMIZERS["adam"]), callbacks=leave, max_epochs=4).current_epoch == 4  # as many as were asked for


class Twice(SGD):
    """Evaluates the loss twice, as sharpness-aware minimization does."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            closure()
        moved = []
        for group in self.param_groups:
            for parameter in group["params"]:
                shift = 0.05 * parameter.grad
                parameter.add_(shift)
                moved.append((parameter, shift))
        with torch.enable_grad():
            loss = closure()
        for parameter, shift in moved:
            parameter.sub_(shift)
        super().step()
        return loss


class WithoutClosure(Optimizer):
    """An optimizer whose step takes nothing."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad)


def by_closure(make: Make, clip: float | None = None, count: int = 6) -> nn.Module:
    model = net()
    optimizer = make(model.parameters())
    torch.manual_seed(3)
    for _ in range(2):
        for x, y in loader(count):

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                loss = nn.functional.mse_loss(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                return loss

            optimizer.step(closure)
    return model


class TestClosures:
    @pytest.mark.parametrize("clip", [None, 0.1])
    def test_lbfgs(self, clip: float | None) -> None:
        module = Module(lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3))
        trainer = fit(module, gradient_clip_val=clip)
        assert same(module.net, by_closure(module.make, clip))
        assert trainer.global_step == 12

    def test_an_optimizer_that_wants_the_loss_twice(self) -> None:
        module = Module(lambda p: Twice(p, lr=0.1))
        trainer = fit(module)
        assert same(module.net, by_closure(module.make))
        assert trainer.global_step == 12

    def test_an_optimizer_that_takes_no_closure(self) -> None:
        for kind in (Module, type("Mine", (Module,), {"optimizer_step": own_step})):
            module = kind(WithoutClosure)
            fit(module, gradient_clip_val=0.1)
            assert same(module.net, by_hand(WithoutClosure, before_step=CLIPS["norm"][1]))

    def test_several_evaluations_do_not_go_with_accumulation(self) -> None:
        with pytest.raises(
            ConflictingOptions, match=r"Twice evaluates the loss several times in a step.*accumulate_grad_batches=1"
        ):
            fit(Module(lambda p: Twice(p, lr=0.1)), accumulate_grad_batches=2)

    def test_none_skips_the_step(self) -> None:
        module = Skipping(lambda p: torch.optim.LBFGS(p, max_iter=2))
        assert fit(module).global_step == 8


class TestOverriddenStep:
    def check(self, step: Any, expected: nn.Module | None = None, **options: Any) -> leyden.Trainer:
        module = type("Mine", (Module,), {"optimizer_step": step})(OPTIMIZERS["sgd"])
        trainer = fit(module, **options)
        assert same(module.net, expected if expected is not None else by_hand(OPTIMIZERS["sgd"]))
        return trainer

    def test_with_the_closure(self) -> None:
        assert self.check(own_step).global_step == 12

    def test_without_naming_the_closure(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step()

        assert self.check(step).global_step == 12

    def test_calling_the_closure_first(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            loss = optimizer_closure()
            assert not loss.requires_grad
            optimizer.step()

        self.check(step)

    def test_by_super(self) -> None:
        def step(self: Any, *arguments: Any, **keywords: Any) -> None:
            assert len(arguments) == 4
            Module.optimizer_step(self, *arguments, **keywords)

        self.check(step)

    def test_the_bare_optimizer(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            assert isinstance(optimizer, SGD)
            assert optimizer.optimizer is self.trainer.optimizers[0]
            optimizer.optimizer.step(closure=optimizer_closure)

        self.check(step)

    def test_the_step_returns_the_loss(self) -> None:
        losses: list[float] = []

        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            losses.append(float(optimizer.step(closure=optimizer_closure)))

        self.check(step)
        assert len(losses) == 12
        assert all(loss > 0 for loss in losses)

    def test_warm_up(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer.step(closure=optimizer_closure)
            if self.trainer.global_step < 5:
                for group in optimizer.param_groups:
                    group["lr"] = 0.1 * (self.trainer.global_step + 1) / 5

        class Warm(SGD):
            done = 0

            def step(self, closure: Any = None) -> Any:
                result = super().step(closure)
                if self.done < 5:
                    for group in self.param_groups:
                        group["lr"] = 0.1 * (self.done + 1) / 5
                self.done += 1
                return result

        module = type("Mine", (Module,), {"optimizer_step": step})()
        fit(module)
        assert same(module.net, by_hand(lambda p: Warm(p, lr=0.1)))

    def test_every_second_batch(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            if batch_idx % 2 == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

        # forward draws for every batch, only even ones move the weights
        model = net()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        torch.manual_seed(3)
        for _ in range(2):
            for index, (x, y) in enumerate(loader(6)):
                optimizer.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                if index % 2 == 0:
                    optimizer.step()
        assert self.check(step, model).global_step == 12

    def test_a_batch_is_trained_on_though_no_step_is_taken(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            pass

        seen: list[int] = []

        class Seeing(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen.append(batch_idx)
                return self.loss(batch)

        module = type("Mine", (Seeing,), {"optimizer_step": step})()
        fit(module, max_epochs=1)
        assert seen == list(range(6))
        assert same(module.net, net())

    @pytest.mark.parametrize("window", [2, 4])
    def test_with_accumulation_and_clipping(self, window: int) -> None:
        expected = by_hand(OPTIMIZERS["sgd"], window=lambda epoch: window, before_step=CLIPS["norm"][1])
        self.check(own_step, expected, accumulate_grad_batches=window, gradient_clip_val=0.1)

    def test_zero_grad_and_param_groups_pass_through(self) -> None:
        def step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer.step(closure=optimizer_closure)
            optimizer.zero_grad()
            assert all(p.grad is None for group in optimizer.param_groups for p in group["params"])
            optimizer.note = "kept"
            assert self.trainer.optimizers[0].note == "kept"
            assert repr(optimizer) == repr(self.trainer.optimizers[0])

        self.check(step)


class TestOtherOverrides:
    def test_backward(self) -> None:
        class Doubling(Module):
            def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
                (2 * loss).backward(*arguments, **keywords)

        module = Doubling()
        fit(module)
        assert same(module.net, by_hand(lambda p: SGD(p, lr=0.1), before_step=lambda m: [p.grad.mul_(2) for p in m.parameters()]))

    def test_optimizer_zero_grad(self) -> None:
        seen: list[tuple[int, int]] = []

        class Zeroing(Module):
            def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
                seen.append((epoch, batch_idx))
                optimizer.zero_grad(set_to_none=False)

        module = Zeroing()
        fit(module, accumulate_grad_batches=4)
        assert seen == [(0, 0), (0, 4), (1, 0), (1, 4)]
        assert same(module.net, by_hand(module.make, window=lambda epoch: 4))

    def test_configure_gradient_clipping(self) -> None:
        class Clipping(Module):
            def configure_gradient_clipping(
                self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
            ) -> None:
                assert (gradient_clip_val, gradient_clip_algorithm) == (None, None)
                self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")

        module = Clipping()
        fit(module)
        assert same(module.net, by_hand(module.make, before_step=CLIPS["norm"][1]))

    def test_clipping_in_two_places(self) -> None:
        class Clipping(Module):
            def configure_gradient_clipping(self, optimizer: Any, *_: Any) -> None:  # type: ignore[override]
                self.clip_gradients(optimizer, gradient_clip_val=0.1)

        with pytest.raises(ConflictingOptions, match=r"clip_gradients\(gradient_clip_val=0.1\) was called, and Trainer"):
            fit(Clipping(), gradient_clip_val=0.5)

    def test_gradients_may_be_changed_before_the_step(self) -> None:
        class Halving(Module):
            def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
                for parameter in self.parameters():
                    parameter.grad = None if parameter.grad is None else parameter.grad / 2

        module = Halving()
        fit(module)
        halved = by_hand(module.make, before_step=lambda m: [p.grad.div_(2) for p in m.parameters()])
        assert same(module.net, halved)

    def test_gradients_are_there_after_backward_and_until_the_next_batch(self) -> None:
        seen: list[bool] = []

        class Watching(Module):
            def on_after_backward(self) -> None:
                seen.append(all(p.grad is not None for p in self.parameters()))

            def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
                seen.append(all(p.grad is not None for p in self.parameters()))

        fit(Watching(), max_epochs=1)
        assert seen == [True] * 12

    def test_no_optimizer_at_all(self) -> None:
        module = Module(lambda p: None)  # type: ignore[arg-type,return-value]
        with pytest.warns(LeydenWarning, match="configure_optimizers returned None: training runs without an optimizer"):
            trainer = fit(module)
        assert same(module.net, net())
        assert (trainer.global_step, trainer.optimizers) == (12, [])

    def test_no_optimizer_in_a_list(self) -> None:
        with pytest.warns(LeydenWarning, match=r"configure_optimizers returned \[\]: training runs without an optimizer"):
            fit(Module(lambda p: []), max_epochs=1)  # type: ignore[arg-type,return-value]


class TestReturns:
    @pytest.mark.parametrize(
        ("returned", "text"),
        [
            (
                {"value": torch.ones(())},
                r"a dict without the key 'loss' \(its keys: \['value'\]\). Return the loss, a dict with",
            ),
            ({"loss": 3.0}, "returned float under 'loss'. It must be a tensor"),
            (3.0, "returned float. Return the loss as a tensor"),
            ([torch.ones(())], "returned list. Return the loss as a tensor"),
        ],
    )
    @pytest.mark.parametrize("overridden", [False, True])
    def test_what_is_no_loss(self, returned: Any, text: str, overridden: bool) -> None:
        class Wrong(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return returned

        kind = type("Mine", (Wrong,), {"optimizer_step": own_step}) if overridden else Wrong
        with pytest.raises(InvalidReturn, match=text):
            fit(kind())

    def test_a_misspelt_loss(self) -> None:
        class Wrong(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return {"los": self.loss(batch)}

        with pytest.raises(UnknownName, match=r"the key 'los', which means nothing. Did you mean 'loss'"):
            fit(Wrong())

    def test_none_under_loss_skips(self) -> None:
        class Wrong(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                return {"loss": None} if batch_idx % 2 else {"loss": self.loss(batch)}

        assert fit(Wrong()).global_step == 6

    def test_manual_backward_belongs_to_manual_optimization(self) -> None:
        class Wrong(Module):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.manual_backward(self.loss(batch))

        with pytest.raises(ConflictingOptions, match=r"manual_backward\(\) belongs to manual optimization"):
            fit(Wrong())


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("clip", [None, 0.1])
class TestPrecision:
    def hand(self, window: int, clip: float | None, dtype: torch.dtype | None, autocast: torch.dtype | None, scale: bool) -> Any:
        model = net() if dtype is None else net().to(dtype)
        optimizer = SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=scale)
        torch.manual_seed(3)
        for _ in range(2):
            data = list(loader(6))
            for start in range(0, 6, window):
                chosen = data[start : start + window]
                optimizer.zero_grad()
                for x, y in chosen:
                    if dtype is not None:
                        x, y = x.to(dtype), y.to(dtype)
                    with torch.autocast("cpu", autocast, enabled=autocast is not None):
                        loss = nn.functional.mse_loss(model(x), y)
                    scaler.scale(loss / len(chosen) if len(chosen) > 1 else loss).backward()
                scaler.unscale_(optimizer)
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                scaler.step(optimizer)
                scaler.update()
        return model

    @pytest.mark.parametrize(
        ("precision", "dtype", "autocast", "scale"),
        [
            ("64-true", torch.float64, None, False),
            ("bf16-true", torch.bfloat16, None, False),
            ("16-true", torch.float16, None, False),
            ("bf16-mixed", None, torch.bfloat16, False),
            ("16-mixed", None, torch.float16, True),
        ],
    )
    def test_every_precision_as_by_hand(
        self,
        precision: str,
        dtype: torch.dtype | None,
        autocast: torch.dtype | None,
        scale: bool,
        window: int,
        clip: float | None,
    ) -> None:
        expected = self.hand(window, clip, dtype, autocast, scale)
        for kind in (Module, type("Mine", (Module,), {"optimizer_step": own_step})):
            module = kind()
            fit(module, precision=precision, accumulate_grad_batches=window, gradient_clip_val=clip)
            assert same(module.net, expected)


def test_the_callers_batches_and_module_stay_as_they_are() -> None:
    data = batches(3)
    before = copy.deepcopy(data)
    module = Module()
    fit(module, DataLoader(data, batch_size=None), precision="64-true")  # type: ignore[arg-type]
    assert all(torch.equal(x, y) for one, two in zip(data, before, strict=True) for x, y in zip(one, two, strict=True))
