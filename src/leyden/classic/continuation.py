"""A fit that goes on in the same process from where the last one ended, because its limits were set anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leyden.callback import Callback
from leyden.checkpoint.settings import asked_of
from leyden.devices.transfer import move_optimizer_state
from leyden.state.fit_state import FitState
from leyden.state.optimizers import OptimizerPlan
from leyden.state.parts import put_parts, take_parts
from leyden.state.run import Run


@dataclass(frozen=True)
class Continuation:
    """What the last fit had reached. Weights and optimizers are at hand."""

    parts: Mapping[str, Any]
    fit: FitState
    callbacks: list[tuple[Callback, Mapping[str, Any]]]

    @classmethod
    def of(cls, run: Run) -> Continuation | None:
        """That of the newest fit, where it has come to its end."""
        fit = run.leyden_fit
        if not fit.returned or fit.at_rest is None or not fit.progress.batches:
            return None
        return cls(take_parts(run), fit, [(callback, callback.state_dict()) for callback in run.callbacks])

    def begin(self, run: Run) -> None:
        """How far training was, and with which optimizers, before anything asks."""
        put_parts(run, self.parts, early=True)
        now, then = run.leyden_fit, self.fit
        now.plan, now.asked, now.drift = then.plan, then.asked, then.drift
        for optimizer in now.plan.optimizers if run.strategy.leyden_moves else ():
            move_optimizer_state(optimizer, run.strategy.root_device)  # they were let go of with the module
        self._replace_optimizers(run)
        for callback, state in self.callbacks:
            if state and any(callback is each for each in run.callbacks):
                callback.load_state_dict(dict(state))

    def _replace_optimizers(self, run: Run) -> None:
        """Where parameters were replaced since then, a new head for instance, the optimizers do not train the module any more."""
        module, now = run.lightning_module, run.leyden_fit
        there = {id(parameter) for parameter in module.parameters()}
        held = {id(p) for optimizer in now.plan.optimizers for group in optimizer.param_groups for p in group["params"]}
        if held <= there or run.leyden_hooks is None or not run.strategy.processes.alone:
            return
        returned = run.leyden_hooks.call("configure_optimizers", run.leyden_steps["configure_optimizers"])
        plan = OptimizerPlan.read(returned, module.automatic_optimization, run.leyden_own_optimization is not None)
        now.plan = run.strategy.leyden_planned(plan, run)
        now.asked = asked_of(now.plan.optimizers, [each.scheduler for each in now.plan.schedulers])
        run.leyden_warn(
            f"Parameters of {type(module).__name__} were replaced since the last fit, and its optimizers hold the old ones: "
            f"training goes on with those that configure_optimizers returned now. They begin without a state."
        )

    def restore(self, run: Run) -> None:
        """Everything else, once ``on_fit_start`` is over."""
        put_parts(run, self.parts, early=False)
