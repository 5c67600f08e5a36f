"""What configure_optimizers may return, what it may not, and when schedulers step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kit
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import leyden
from leyden.errors import InvalidReturn, LeydenWarning, MissingMonitor, UnknownName
from leyden.state.optimizers import OptimizerPlan, SchedulerPlan, SteppingOptimizer, requires_closure, takes_closure
from leyden.testing import BoringModel, random_batches

QUIET = {**kit.QUIET, "num_sanity_val_steps": 0}


def sgd(lr: float = 1.0) -> SGD:
    return SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


class TestForms:
    def test_an_optimizer(self) -> None:
        optimizer = sgd()
        assert OptimizerPlan.read(optimizer, True) == OptimizerPlan([optimizer], [])

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_several(self, kind: Any) -> None:
        optimizers = [sgd(), sgd()]
        assert OptimizerPlan.read(kind(optimizers), False).optimizers == optimizers
        assert OptimizerPlan.read(kind(optimizers[:1]), True).optimizers == optimizers[:1]

    def test_two_lists(self) -> None:
        optimizers = [sgd(), sgd()]
        schedulers: list[Any] = [StepLR(optimizers[0], 1), {"scheduler": StepLR(optimizers[1], 1), "interval": "step"}]
        plan = OptimizerPlan.read((optimizers, schedulers), False)
        assert plan.optimizers == optimizers
        assert [each.scheduler for each in plan.schedulers] == [schedulers[0], schedulers[1]["scheduler"]]
        assert [each.interval for each in plan.schedulers] == ["epoch", "step"]
        assert OptimizerPlan.read((optimizers, []), False).schedulers == []

    def test_a_list_and_one_scheduler(self) -> None:
        optimizer = sgd()
        scheduler = StepLR(optimizer, 1)
        assert OptimizerPlan.read(([optimizer], scheduler), True).schedulers[0].scheduler is scheduler

    def test_a_dict(self) -> None:
        optimizer = sgd()
        assert OptimizerPlan.read({"optimizer": optimizer}, True).optimizers == [optimizer]
        assert OptimizerPlan.read({"optimizer": optimizer, "lr_scheduler": None}, True).schedulers == []
        scheduler = StepLR(optimizer, 1)
        config = {"scheduler": scheduler, "interval": "step", "frequency": 3, "monitor": "x", "strict": False, "name": "mine"}
        plan = OptimizerPlan.read({"optimizer": optimizer, "lr_scheduler": config}, True)
        assert plan.schedulers == [SchedulerPlan(scheduler, "mine", "step", 3, False, "x", False)]
        assert OptimizerPlan.read({"optimizer": optimizer, "lr_scheduler": scheduler}, True).schedulers == [
            SchedulerPlan(scheduler, None, "epoch", 1, False, None, True)
        ]

    @pytest.mark.parametrize("nested", [False, True])
    def test_a_monitor_beside_the_scheduler(self, nested: bool) -> None:
        optimizer = sgd()
        scheduler = ReduceLROnPlateau(optimizer)
        given: Any = {"scheduler": scheduler} if nested else scheduler
        plan = OptimizerPlan.read({"optimizer": optimizer, "lr_scheduler": given, "monitor": "val_loss"}, True)
        assert plan.schedulers == [SchedulerPlan(scheduler, monitor="val_loss", reduce_on_plateau=True)]

    def test_the_schedulers_own_monitor_wins(self) -> None:
        optimizer = sgd()
        given = {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "own"}
        plan = OptimizerPlan.read({"optimizer": optimizer, "lr_scheduler": given, "monitor": "other"}, True)
        assert plan.schedulers[0].monitor == "own"

    def test_one_scheduler_beside_a_list_of_optimizers(self) -> None:
        optimizer = sgd()
        scheduler = StepLR(optimizer, 1)
        for given in (scheduler, {"scheduler": scheduler}):
            plan = OptimizerPlan.read(([optimizer], given), True)
            assert (plan.optimizers, plan.schedulers) == ([optimizer], [SchedulerPlan(scheduler)])

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_several_dicts(self, kind: Any) -> None:
        optimizers = [sgd(), sgd()]
        scheduler = StepLR(optimizers[1], 1)
        plan = OptimizerPlan.read(
            kind([{"optimizer": optimizers[0]}, {"optimizer": optimizers[1], "lr_scheduler": scheduler}]), False
        )
        assert plan.optimizers == optimizers
        assert [each.scheduler for each in plan.schedulers] == [scheduler]

    def test_none(self) -> None:
        assert OptimizerPlan.read(None, True) == OptimizerPlan.empty() == OptimizerPlan([], [])

    def test_a_scheduler_of_the_users_own(self) -> None:
        class Mine:
            def step(self) -> None: ...

            def state_dict(self) -> dict[str, Any]:
                return {}

        mine = Mine()
        assert OptimizerPlan.read(([sgd()], [mine]), True).schedulers[0].scheduler is mine


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda o: "adam", "returned str, which cannot be used. Expected one of: an optimizer; a list"),
            (lambda o: [o, "adam"], r"returned \['SGD', 'str'\], which cannot be used"),
            (lambda o: (o, StepLR(o, 1)), r"returned \['SGD', 'StepLR'\], which cannot be used"),
            (lambda o: (o, [StepLR(o, 1)]), r"returned \['SGD', 'list'\], which cannot be used"),
            (lambda o: (["adam"], []), "which cannot be used"),
            (lambda o: {}, "a dict without the key 'optimizer'"),
            (lambda o: {"lr_scheduler": StepLR(o, 1)}, "a dict without the key 'optimizer'"),
            (lambda o: {"optimizer": o, "lr_scheduler": [StepLR(o, 1)]}, "a list under 'lr_scheduler'. Give one scheduler there"),
            (lambda o: {"optimizer": o, "lr_scheduler": {"interval": "step"}}, "needs the key 'scheduler'"),
            (lambda o: ([o], ["step"]), "returned str as a scheduler. A scheduler has step"),
            (
                lambda o: ([o], [{"scheduler": StepLR(o, 1), "interval": "batch"}]),
                'interval=\'batch\'. Expected "epoch" or "step"',
            ),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "frequency": 0}]), "frequency=0. Expected a whole number >= 1"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "frequency": 1.5}]), "frequency=1.5. Expected a whole number"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "frequency": True}]), "frequency=True. Expected a whole number"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "interval": ["epoch"]}]), r"interval=\['epoch'\]. Expected"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "frequency": "x"}]), "frequency='x'. Expected a whole number"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "monitor": 3}]), "monitor=3. Expected the name of a metric"),
            (lambda o: {"optimizer": o, "lr_scheduler": ReduceLROnPlateau(o), "monitor": ["a"]}, r"monitor=\['a'\]. Expected"),
            (lambda o: {"optimizer": o, "lr_scheduler": ReduceLROnPlateau(o), "monitor": ""}, "monitor=''. Expected the name"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "strict": "no"}]), "strict='no'. Expected True or False"),
            (lambda o: ([o], [{"scheduler": StepLR(o, 1), "reduce_on_plateau": 3}]), "reduce_on_plateau=3. Expected True"),
            (lambda o: ([o], [StepLR(sgd(), 1)]), "a StepLR for an optimizer that it did not return"),
            (lambda o: [o, sgd()], "returned 2 optimizers, and automatic optimization steps one. Set"),
        ],
    )
    def test_what_cannot_be_used(self, make: Callable[[SGD], Any], text: str) -> None:
        with pytest.raises(InvalidReturn, match=text):
            OptimizerPlan.read(make(sgd()), True)

    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda o: {"optimiser": o}, "the key 'optimiser', which means nothing.*Did you mean 'optimizer'"),
            (
                lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": StepLR(o, 1), "intervall": "step"}},
                "the key 'intervall', which means nothing.*Did you mean 'interval'",
            ),
        ],
    )
    def test_unknown_keys(self, make: Callable[[SGD], Any], text: str) -> None:
        with pytest.raises(UnknownName, match=text):
            OptimizerPlan.read(make(sgd()), True)

    def test_manual_optimization_needs_no_monitor(self) -> None:
        optimizer = sgd()
        assert OptimizerPlan.read(([optimizer], [ReduceLROnPlateau(optimizer)]), False).schedulers[0].monitor is None

    def test_the_error_comes_out_of_fit(self) -> None:
        class Wrong(BoringModel):
            def configure_optimizers(self) -> Any:
                return "adam"

        with pytest.raises(InvalidReturn, match="configure_optimizers returned str"):
            leyden.Trainer(**QUIET, max_epochs=1).fit(Wrong())


class Scheduled(BoringModel):
    """Records the learning rate of each batch; ``make`` brings the scheduler's config."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self.make = make
        self.rates: list[float] = []
        self.metric = 1.0

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=1.0)
        return {"optimizer": optimizer, "lr_scheduler": self.make(optimizer)}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("train_metric", self.metric)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_metric", self.metric)


def rates(make: Callable[[Any], Any], batches: int = 4, validates: bool = False, **options: Any) -> list[float]:
    module = Scheduled(make)
    trainer = leyden.Trainer(**{**QUIET, "max_epochs": 2, "limit_val_batches": 1 if validates else 0, **options})
    trainer.fit(module, random_batches(batches), random_batches(1))
    assert len(trainer.lr_scheduler_configs) == 1
    return module.rates


def halving(optimizer: Any) -> StepLR:
    return StepLR(optimizer, 1, 0.5)


class Particular:
    """A scheduler of another package: its step wants an argument of its own."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.seen: list[int] = []

    def step(self, number: int) -> None:
        self.seen.append(number)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TestSchedulersOfOtherPackages:
    @pytest.mark.parametrize("config", [{}, {"monitor": "loss", "reduce_on_plateau": True, "scheduler": None}])
    def test_one_whose_step_cannot_be_called_is_named_before_the_first_step(self, config: dict[str, Any]) -> None:
        class Bare(Particular):
            def step(self) -> None: ...  # type: ignore[override]  # takes no metric

        def make(optimizer: Any) -> Any:
            return {**config, "scheduler": Bare(optimizer)} if config else Particular(optimizer)

        with pytest.raises(InvalidReturn, match=r"step cannot be called as schedulers are: .* Override lr_scheduler_step\("):
            rates(make, 1)

    def test_the_module_steps_it(self) -> None:
        class Stepping(Scheduled):
            def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
                scheduler.step(number=self.current_epoch)

        module = Stepping(Particular)
        leyden.Trainer(**{**QUIET, "max_epochs": 2, "limit_val_batches": 0}).fit(module, random_batches(1))
        assert module.lr_schedulers().seen == [0, 1]


class TestWhenTheyStep:
    def test_each_epoch(self) -> None:
        assert rates(halving, 2, max_epochs=3) == [1, 1, 0.5, 0.5, 0.25, 0.25]

    def test_every_second_epoch(self) -> None:
        found = rates(lambda o: {"scheduler": halving(o), "frequency": 2}, 1, max_epochs=5)
        assert found == [1, 1, 0.5, 0.5, 0.25]

    def test_each_step(self) -> None:
        found = rates(lambda o: {"scheduler": halving(o), "interval": "step"}, 2)
        assert found == [1, 0.5, 0.25, 0.125]

    def test_every_second_step_across_epochs(self) -> None:
        found = rates(lambda o: {"scheduler": halving(o), "interval": "step", "frequency": 2}, 3)
        assert found == [1, 1, 0.5, 0.5, 0.25, 0.25]

    def test_steps_and_not_batches_under_accumulation(self) -> None:
        found = rates(lambda o: {"scheduler": halving(o), "interval": "step"}, 5, accumulate_grad_batches=2)
        assert found == [1, 1, 0.5, 0.5, 0.25, 0.125, 0.125, 0.0625, 0.0625, 0.03125]

    def test_before_the_epochs_validation(self) -> None:
        seen: list[float] = []

        class Seeing(Scheduled):
            def on_validation_start(self) -> None:
                seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        module = Seeing(halving)
        leyden.Trainer(**QUIET, max_epochs=2, limit_val_batches=1).fit(module, random_batches(2), random_batches(1))
        assert seen == [0.5, 0.25]

    def test_not_where_the_epoch_is_cut(self) -> None:
        assert rates(halving, 4, max_epochs=-1, max_steps=6) == [1] * 4 + [0.5] * 2

    def test_one_cycle_over_the_estimated_steps(self) -> None:
        class Cycled(Scheduled):
            def configure_optimizers(self) -> Any:
                optimizer = SGD(self.parameters(), lr=1.0)
                total = self.trainer.estimated_stepping_batches
                assert total == 6
                scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=int(total) + 1)
                return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        module = Cycled(halving)
        trainer = leyden.Trainer(**QUIET, max_epochs=2, accumulate_grad_batches=2, limit_val_batches=0)
        trainer.fit(module, random_batches(5))
        assert trainer.global_step == 6

    def test_lr_scheduler_step_may_be_overridden(self) -> None:
        seen: list[Any] = []

        class Stepping(Scheduled):
            def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
                seen.append(metric)
                scheduler.step(self.current_epoch + 3)

        with pytest.warns(UserWarning, match="epoch parameter in `scheduler.step"):
            leyden.Trainer(**QUIET, max_epochs=1, limit_val_batches=0).fit(module := Stepping(halving), random_batches(2))
        assert seen == [None]
        assert module.trainer.optimizers[0].param_groups[0]["lr"] == 0.125

    @pytest.mark.parametrize("plateau", [False, True])
    def test_a_metric_is_for_those_that_reduce_on_a_plateau(self, plateau: bool) -> None:
        """`if metric is None: scheduler.step() else: scheduler.step(metric)`, as the documents have it, beside a `monitor`."""
        seen: list[Any] = []

        class Stepping(Scheduled):
            def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
                seen.append(metric)
                if metric is None:
                    scheduler.step()
                else:
                    scheduler.step(metric)

        module = Stepping(
            on_plateau(monitor="val_metric") if plateau else lambda made: {"scheduler": halving(made), "monitor": "val_metric"}
        )
        leyden.Trainer(**QUIET, max_epochs=2).fit(module, random_batches(2), random_batches(2))
        assert [metric is None for metric in seen] == [not plateau] * 2


def on_plateau(**config: Any) -> Callable[[Any], Any]:
    """Halves whenever the metric is not better than ever: at its second step and at every one after it."""

    def make(optimizer: Any) -> Any:
        return {"scheduler": ReduceLROnPlateau(optimizer, factor=0.5, patience=0), **config}

    return make


class TestPlateaus:
    def test_each_epoch_with_the_validations_metric(self) -> None:
        assert rates(on_plateau(monitor="val_metric"), 1, True, max_epochs=4) == [1, 1, 0.5, 0.25]

    def test_each_step(self) -> None:
        assert rates(on_plateau(monitor="train_metric", interval="step"), 3) == [1, 1, 0.5, 0.25, 0.125, 0.0625]

    @pytest.mark.parametrize(("frequency", "expected"), [(1, [1, 1, 1, 1, 0.5, 0.5]), (2, [1, 1, 1, 1, 1, 1])])
    def test_steps_and_not_batches_under_accumulation(self, frequency: int, expected: list[float]) -> None:
        config = on_plateau(monitor="train_metric", interval="step", frequency=frequency)
        assert rates(config, 6, max_epochs=1, accumulate_grad_batches=2) == expected

    def test_after_the_validation_that_follows_a_step(self) -> None:
        config = on_plateau(monitor="val_metric", interval="step", frequency=2)
        assert rates(config, 4, True, val_check_interval=2) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25]

    def test_before_the_checkpoint_and_after_the_modules_hook(self) -> None:
        seen: list[Any] = []

        class Seeing(Scheduled):
            def on_train_epoch_end(self) -> None:
                seen.append(self.trainer.optimizers[0].param_groups[0]["lr"])

        class Last(leyden.Callback):
            leyden_phase = "checkpoint"

            def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
                seen.append(trainer.optimizers[0].param_groups[0]["lr"])

        module = Seeing(on_plateau(monitor="train_metric"))
        leyden.Trainer(**QUIET, max_epochs=3, limit_val_batches=0, callbacks=Last()).fit(module, random_batches(1))
        assert seen == [1, 1, 1, 0.5, 0.5, 0.25]

    def test_a_metric_that_is_missing(self) -> None:
        with pytest.raises(MissingMonitor, match=r"ReduceLROnPlateau monitors 'val_metrik', .* Did you mean 'val_metric'\?"):
            rates(on_plateau(monitor="val_metrik"), 1, True)

    @pytest.mark.parametrize("alone", [True, False], ids=["a scheduler", "a dict of it"])
    def test_a_metric_that_nobody_named(self, alone: bool) -> None:
        def make(optimizer: Any) -> Any:
            scheduler = ReduceLROnPlateau(optimizer)
            return scheduler if alone else {"scheduler": scheduler, "interval": "epoch"}

        with pytest.raises(MissingMonitor, match="No monitor was given, and 'val_loss' is taken then") as caught:
            rates(make, 1)
        assert "{'optimizer': ..., 'lr_scheduler': ..., 'monitor': 'train_metric'} to name one" in str(caught.value)
        with pytest.raises(MissingMonitor) as caught:
            rates(on_plateau(monitor="val_loss"), 1)
        assert "No monitor" not in str(caught.value)

    def test_a_metric_that_may_be_missing(self) -> None:
        with pytest.warns(LeydenWarning, match="monitors 'nothing', .* Its step is left out"):
            assert rates(on_plateau(monitor="nothing", strict=False), 1) == [1, 1]

    def test_a_cut_epoch_needs_no_metric(self) -> None:
        assert rates(on_plateau(monitor="val_metric"), 4, True, max_epochs=-1, max_steps=2) == [1, 1]

    def test_a_scheduler_of_the_users_own_that_wants_a_metric(self) -> None:
        class Mine:
            def __init__(self, optimizer: Any) -> None:
                self.optimizer = optimizer
                self.seen: list[float] = []

            def step(self, metric: Any) -> None:
                self.seen.append(float(metric))

            def state_dict(self) -> dict[str, Any]:
                return {}

            def load_state_dict(self, state: Any) -> None: ...

        made: list[Mine] = []

        def make(optimizer: Any) -> Any:
            made.append(Mine(optimizer))
            return {"scheduler": made[0], "monitor": "train_metric", "reduce_on_plateau": True}

        rates(make, 2)
        assert made[0].seen == [1.0, 1.0]


class TestClosures:
    def test_who_is_given_one(self) -> None:
        parameter = torch.nn.Parameter(torch.zeros(1))
        assert not requires_closure(sgd())
        assert requires_closure(torch.optim.LBFGS([parameter]))

        class Mine(SGD):
            pass

        class NoClosure(SGD):
            def step(self) -> None:  # type: ignore[override]
                pass

        class OtherName(SGD):
            def step(self, function: Any = None) -> None:  # type: ignore[override]
                pass

        assert requires_closure(Mine([parameter], lr=1.0))
        assert takes_closure(Mine([parameter], lr=1.0))
        assert not requires_closure(NoClosure([parameter], lr=1.0))
        assert not takes_closure(NoClosure([parameter], lr=1.0))
        assert requires_closure(OtherName([parameter], lr=1.0))


def test_a_stepping_optimizer_looks_like_its_optimizer() -> None:
    optimizer = sgd()
    calls: list[Any] = []
    wrapped = SteppingOptimizer(optimizer, lambda *arguments, **keywords: calls.append((arguments, keywords)), calls.append)
    assert isinstance(wrapped, SGD)
    assert isinstance(wrapped, torch.optim.Optimizer)
    assert wrapped.param_groups is optimizer.param_groups
    assert wrapped.state_dict() == optimizer.state_dict()
    wrapped.step(print, more=1)
    wrapped.toggle_model()
    assert calls == [((optimizer, print), {"more": 1}), optimizer]
    optimizer.param_groups[0]["params"][0].grad = torch.ones(1)
    wrapped.zero_grad(set_to_none=False)
    assert optimizer.param_groups[0]["params"][0].grad.item() == 0
    wrapped.zero_grad()
    assert optimizer.param_groups[0]["params"][0].grad is None
    wrapped.anything = 3
    assert optimizer.anything == 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        _ = wrapped.nothing
