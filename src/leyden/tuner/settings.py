"""A value that optimizers are made with has changed: they get the settings that they would have, had it been there before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from leyden.checkpoint.random_state import preserved_random_state
from leyden.checkpoint.settings import asked_of
from leyden.data.untouched import untouched
from leyden.state.optimizers import OptimizerPlan
from leyden.state.run import Run


def adopt_settings(run: Run, rate: float | None = None) -> None:
    """Ask ``configure_optimizers`` again, which reads the new value, and let the optimizers at hand have its settings.

    That is what a fit with the value written by hand begins with, schedulers included. Once training has begun, or where the
    value is not what the module makes its optimizers with, ``rate`` is set in every group, and in schedulers as their base.
    """
    fit, module = run.leyden_fit, run.lightning_module
    assert run.leyden_hooks is not None
    before = _rates(fit.plan)
    with untouched(module), preserved_random_state():
        returned = run.leyden_hooks.call("configure_optimizers", run.leyden_steps["configure_optimizers"])
        fresh = OptimizerPlan.read(returned, module.automatic_optimization, run.leyden_own_optimization is not None)
    if fit.asked is not None:  # on a resume the command says what it says now
        fit.asked = asked_of(fresh.optimizers, [each.scheduler for each in fresh.schedulers])
    begins = run.leyden_hooks.where == "on_fit_start" and fit.progress.batches == 0
    if begins and _are_alike(fit.plan, fresh):
        _adopt(fit.plan, fresh)
        if _rates(fit.plan) != before:
            return
    if rate is not None:
        for optimizer in fit.plan.optimizers:
            for group in optimizer.param_groups:
                set_rate(group, rate)
                if "initial_lr" in group:
                    group["initial_lr"] = rate
        for plan in fit.plan.schedulers:
            if hasattr(plan.scheduler, "base_lrs"):
                plan.scheduler.base_lrs = [rate] * len(plan.scheduler.base_lrs)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """A rate that is a tensor stays one: a compiled or captured step reads it."""
    held = group["lr"]
    group["lr"] = torch.full_like(held, rate) if isinstance(held, torch.Tensor) else rate


def _rates(plan: OptimizerPlan) -> list[float]:
    groups = [group for optimizer in plan.optimizers for group in optimizer.param_groups]
    return [float(group.get("initial_lr", group.get("lr", 0.0))) for group in groups]


def _are_alike(mine: OptimizerPlan, fresh: OptimizerPlan) -> bool:
    pairs = [*zip(mine.optimizers, fresh.optimizers, strict=False)]
    pairs += [(each.scheduler, other.scheduler) for each, other in zip(mine.schedulers, fresh.schedulers, strict=False)]
    return (
        len(mine.optimizers) == len(fresh.optimizers)
        and len(mine.schedulers) == len(fresh.schedulers)
        and all(type(one) is type(other) and _nested(one) == _nested(other) for one, other in pairs)
        and [_parameters(each) for each in mine.optimizers] == [_parameters(each) for each in fresh.optimizers]
    )


def _nested(scheduler: Any) -> list[type]:
    """The kinds of the schedulers that one is made of."""
    return [type(each) for value in vars(scheduler).values() if _all_schedulers(value) for each in value]


def _parameters(optimizer: Any) -> list[list[int]]:
    return [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


def _adopt(mine: OptimizerPlan, fresh: OptimizerPlan) -> None:
    for optimizer, other in zip(mine.optimizers, fresh.optimizers, strict=True):
        optimizer.defaults = other.defaults
        for group, settings in zip(optimizer.param_groups, other.param_groups, strict=True):
            parameters = group["params"]
            group.clear()
            group.update({**settings, "params": parameters})
    for plan, another in zip(mine.schedulers, fresh.schedulers, strict=True):
        _adopt_scheduler(plan.scheduler, another.scheduler)


def _adopt_scheduler(scheduler: Any, fresh: Any) -> None:
    """All that ``fresh`` holds, but for the optimizer, and for schedulers in it, which adopt in turn."""
    for name, value in vars(fresh).items():
        held = getattr(scheduler, name, None)
        if isinstance(value, Optimizer):
            continue
        if isinstance(value, LRScheduler) and type(held) is type(value):
            _adopt_scheduler(held, value)
        elif _all_schedulers(value):
            for one, other in zip(getattr(scheduler, name), value, strict=True):
                _adopt_scheduler(one, other)
        else:
            setattr(scheduler, name, value)


def _all_schedulers(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(each, LRScheduler) for each in value)
