"""From a batch to a step: automatic optimization."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import methodcaller
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.checkpoint.loss_flow import carried_loss
from leyden.checkpoint.plain_names import named_parameters
from leyden.errors import ConflictingOptions, MissingMonitor, did_you_mean
from leyden.hooks import overrides
from leyden.inspect.plain import backs_plainly, let_gradients_go, zeroes_plainly
from leyden.loops.manual import Manual
from leyden.loops.outputs import differentiate, read_loss
from leyden.module import LightningModule
from leyden.state.fit_state import Stepping
from leyden.state.optimizers import SchedulerPlan, SteppingOptimizer, requires_closure, takes_closure
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.strategies.base import Strategy

# Looked up in every batch: plain numbers of this file cost less than an enum's members.
OPENED, FORWARD = int(Done.OPENED), int(Done.FORWARD)
ZERO_TOLD, ZEROED = int(Done.ZERO_TOLD), int(Done.ZEROED)
BACKWARD_TOLD, BACKWARD, ACCUMULATED = int(Done.BACKWARD_TOLD), int(Done.BACKWARD), int(Done.ACCUMULATED)
STEP_TOLD, OPTIMIZED, STEPPED = int(Done.STEP_TOLD), int(Done.OPTIMIZED), int(Done.STEPPED)


class NothingToStep(Exception):
    """Leaves an optimizer's step where every batch of the window was skipped."""


class Automatic:
    """Forward, zero, backward, clip, step: as a hand-written loop does, with the hooks in between.

    What a step consists of is put together here, once: functions that do what this module, precision and strategy need, and
    ``None`` for what is not needed. ``at`` is the point at which a batch was cut, for the one with which a resumed run begins.
    ``optimizer`` is the one that is stepped, where it is not the only one.
    """

    begun_anew = ""

    def __init__(self, run: Run, optimizer: Optimizer | None = None) -> None:
        fit = run.leyden_fit
        assert run.leyden_hooks is not None
        self.run = run
        self.module = module = run.lightning_module
        self.hooks = hooks = run.leyden_hooks
        self.progress = fit.progress
        self.flight = fit.flight
        self.optimizer = optimizer or next(iter(fit.plan.optimizers), None)
        self.precision = run.strategy.precision
        self.note_loss = fit.losses.note
        self.forward = run.leyden_ready_step("training_step")
        self.accumulating = (
            None if type(run.strategy).leyden_accumulating is Strategy.leyden_accumulating else run.strategy.leyden_accumulating
        )
        self.own_zero_grad = overrides(module, LightningModule.optimizer_zero_grad)
        self.own_clipping = overrides(module, LightningModule.configure_gradient_clipping)
        self.backward = self._chosen_backward()
        self.zero = self._chosen_zero()
        self.own_scheduler_step = overrides(module, LightningModule.lr_scheduler_step)
        for plan in () if self.own_scheduler_step else fit.plan.schedulers:
            plan.check_step()
        self.must_close = self.optimizer is not None and (
            overrides(module, LightningModule.optimizer_step)
            or requires_closure(self.optimizer)
            or run.strategy.leyden_takes_closure
        )
        self.skips = run.strategy.leyden_skips(fit.course.talks)
        unforeseen = partial(run.strategy.leyden_no_loss, self.progress, self.optimizer)
        self.no_loss: Callable[..., Any] = unforeseen if self.skips is None else self.skips.skip
        options = run.leyden_options.optimization
        self.clips = self.own_clipping or options.clip_value is not None
        self.tells_before_backward = hooks.listens(Callback.on_before_backward)
        self.tells_after_backward = hooks.listens(Callback.on_after_backward)
        self.prepares_step = self.precision.scales or self.clips or hooks.listens(Callback.on_before_optimizer_step)
        # whether anybody could save between forward and backward, who would need the graph
        self.is_watched = (
            self.tells_before_backward
            or hooks.listens(Callback.on_before_zero_grad)
            or self.own_zero_grad
            or overrides(module, LightningModule.backward)
        )
        self.wrapped = (
            [] if self.optimizer is None else [SteppingOptimizer(self.optimizer, self._step_wrapped, module.toggled_optimizer)]
        )
        around, hook = run.profiler.leyden_around, f"[LightningModule]{type(module).__name__}."
        # a hook of the module is measured itself
        action = "optimizer_step" if self.must_close else f"{hook}optimizer_step"
        self.step_optimizer: Callable[..., Any] = around(action, run.strategy.leyden_stepping())
        self.step_plan = around(f"{hook}lr_scheduler_step", lambda plan, metric: plan.step(metric))
        self.step_due_plan = around(f"{hook}lr_scheduler_step", methodcaller("step", None))
        self.clip_gradients = around(f"{hook}configure_gradient_clipping", run.leyden_clip_gradients)
        self._window = 1  # batches that make a step
        self.divisor = 1  # batches of the running window, so that its gradient is their mean
        self.contributed: float = 0  # batches whose gradients are in; over several processes their mean
        self._closure: Callable[[], Any] | None = None  # of the running batch, until it was called
        self._at = OPENED  # where that batch was cut
        self._takes_closure = self.optimizer is not None and takes_closure(self.optimizer)
        self._closes_often = self.optimizer is not None and requires_closure(self.optimizer)  # and decides by the loss
        self._told_idle = False
        self.stepped = True  # whether the newest batch that filled its window took a step
        self._stepping: tuple[Any, Any] | None = None  # the scheduler that a hook of the module steps, and its count before

    def _chosen_backward(self) -> Callable[[Tensor], Any]:
        plainly = partial(differentiate, f"{type(self.module).__name__}.training_step returned", "return None")
        return plainly if backs_plainly(self.run) else self._backward_by_hook

    def _backward_by_hook(self, loss: Tensor) -> None:
        self.hooks.call("backward", self.run.leyden_backward, self.precision.pre_backward(loss, self.module))

    def _chosen_zero(self) -> Callable[[int, int], Any] | None:
        """How gradients are reset before a window's first backward; ``None`` without an optimizer."""
        if (optimizer := self.optimizer) is None:
            return None
        self._let_go: Callable[[], Any] = partial(self.hooks.call, "optimizer_zero_grad", optimizer.zero_grad)
        if zeroes_plainly(optimizer) and not self.run.profiler.leyden_active:
            self._let_go = partial(let_gradients_go, optimizer)
            if not (self.own_zero_grad or self.hooks.listens(Callback.on_before_zero_grad)):
                return lambda index, at: let_gradients_go(optimizer)
        return partial(self._zero_by_hook, optimizer)

    def _zero_by_hook(self, optimizer: Optimizer, index: int, at: int) -> None:
        if at < ZERO_TOLD:
            self.hooks.emit(Callback.on_before_zero_grad, optimizer)
        if self.is_watched:
            self.progress.done = ZERO_TOLD
        if self.own_zero_grad:
            zero = self.run.leyden_steps["optimizer_zero_grad"]
            self.hooks.call("optimizer_zero_grad", zero, self.run.current_epoch, index, optimizer)
        else:
            self._let_go()

    # -- one batch
    def step(self, batch: Any, index: int, is_last: bool, at: int = OPENED) -> Any:
        """Train on a batch; returns what ``training_step`` returned."""
        progress = self.progress
        if progress.window == 0 and at < FORWARD:
            self._window = self.run.leyden_fit.accumulation
            self.divisor = 1 if self._window == 1 else self.run.leyden_window_length(index)
            self.contributed = 0
        full = is_last or progress.window + 1 >= self._window or at >= ACCUMULATED
        if self.skips is not None:
            self.skips.meets = full
        if full and self.must_close:
            outputs = self.by_closure(batch, index, at)
        elif full or self.accumulating is None:
            outputs = self.differentiate(batch, index, at)
        else:
            with self.accumulating():
                outputs = self.differentiate(batch, index, at)
        if not full:
            progress.window += 1
            return outputs
        if self.skips is not None and not self.must_close:
            self.contributed = self.skips.settle(progress.window + 1, self.contributed)
        self.stepped = self.contributed > 0
        if self.stepped and at < OPTIMIZED and not self.must_close and self.optimizer is not None:
            if self.prepares_step or self.contributed != self.divisor:
                self.before_step(self.optimizer, at)
            self.step_optimizer(self.optimizer)
        if at < STEPPED:
            progress.window = 0
            progress.step += self.stepped
        if self.run.leyden_fit.plan.schedulers:
            progress.done = STEPPED
            self.step_due(is_last)
        return outputs

    def open_window(self, batches: int) -> None:
        """So many batches make the next step."""
        self.divisor, self.contributed = batches, 0

    def differentiate(self, batch: Any, index: int, at: int) -> Any:
        """Forward and backward of one batch."""
        progress, flight = self.progress, self.flight
        if at < FORWARD:
            outputs = None if batch is None else self.forward(batch, index)
            loss: Any = outputs
            if type(outputs) is not Tensor:
                if outputs is not None:
                    outputs = self.run.leyden_read_returned("training_step", "train", outputs)
                loss = read_loss(outputs, self.run)
            if loss is None:
                flight.outputs = None
                zero = self.zero if self.contributed == 0 else None
                self.no_loss(None if zero is None else partial(zero, index, at), batch is not None)
                return None
            self.note_loss(loss)
            flight.outputs = outputs
            if self.divisor != 1:
                loss = loss / self.divisor
            if self.is_watched:
                flight.loss, progress.done = loss, FORWARD
        else:
            outputs, loss = flight.outputs, flight.loss
        if self.contributed == 0 and at < ZEROED and self.zero is not None and (self.skips is None or not self.skips.cleared):
            self.zero(index, at)
        if at < BACKWARD:
            if self.is_watched:
                if self.tells_before_backward and at < BACKWARD_TOLD:
                    progress.done = ZEROED
                    self.hooks.emit(Callback.on_before_backward, loss)
                progress.done = BACKWARD_TOLD
            self.backward(loss)
            flight.loss = None
            self.contributed += 1
        if self.tells_after_backward and at < ACCUMULATED:
            progress.done = BACKWARD
            self.hooks.emit(Callback.on_after_backward)
        return outputs

    def take_up(self, carried: Any) -> None:
        """A resumed run begins inside a window, or inside a batch: what the earlier batches brought is there already."""
        progress, flight = self.progress, self.flight
        self._window = self.run.accumulate_grad_batches  # another than before the cut leaves the divisor of what is there
        self.divisor = self.divisor or self.run.leyden_window_length(progress.batch - progress.window)
        begun = progress.window + (progress.in_batch and BACKWARD <= progress.done < STEPPED)
        if self.skips is not None and begun:
            self.skips.take_up(begun, self.contributed)
        if not carried:
            return
        if FORWARD <= progress.done < BACKWARD and carried.get("value") is not None:
            flight.loss = carried_loss(carried["value"], carried["flow"], named_parameters(self.module))
        if self.precision.scales and BACKWARD <= progress.done < OPTIMIZED:
            self.precision.scale(torch.zeros((), device=next(self.module.parameters()).device))  # a new scaler begins with a loss
        if self.precision.scales and ACCUMULATED <= progress.done < OPTIMIZED and self.optimizer is not None:
            # the scaler has to see these gradients itself, before it steps
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.precision.scale(parameter.grad)
            self.precision.unscale(self.optimizer)

    def before_step(self, optimizer: Optimizer, at: int) -> None:
        """Gradients are complete: make them the window's mean, unscale, tell, clip."""
        progress = self.progress
        if at < ACCUMULATED:
            if self.contributed not in (0, self.divisor):
                # the window came out shorter than its length was known to be (a loader that ended, a skipped batch)
                gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
                if gradients:
                    torch._foreach_mul_(gradients, self.divisor / self.contributed)
            if self.precision.scales:
                self.precision.unscale(optimizer)
            progress.done = ACCUMULATED
        if at < STEP_TOLD:
            self.hooks.emit(Callback.on_before_optimizer_step, optimizer)
            progress.done = STEP_TOLD
        if self.clips:
            self.clip(optimizer)

    def clip(self, optimizer: Optimizer) -> None:
        options = self.run.leyden_options.optimization
        clip: Callable[..., Any] = self.clip_gradients
        if self.own_clipping:
            clip = partial(self.hooks.call, "configure_gradient_clipping", self.run.leyden_steps["configure_gradient_clipping"])
        clip(optimizer, options.clip_value, options.clip_algorithm)

    # -- optimizers and modules that want a closure
    def by_closure(self, batch: Any, index: int, at: int) -> Any:
        """The step is the module's or the optimizer's: hand it forward and backward as a closure."""
        assert self.optimizer is not None
        outputs: Any = self.flight.outputs if at >= FORWARD else None
        if at >= OPTIMIZED:
            return outputs
        calls = 0
        fresh = self.contributed if at < BACKWARD else self.contributed - 1

        def closure() -> Tensor | None:
            nonlocal outputs, calls, at
            self._closure = None
            calls += 1
            if calls > 1:
                at = OPENED
                if fresh > 0:
                    raise ConflictingOptions(
                        f"{type(self.optimizer).__name__} evaluates the loss several times in a step, and with "
                        f"accumulate_grad_batches={self.run.accumulate_grad_batches} the earlier batches are gone by then. Use "
                        f"accumulate_grad_batches=1."
                    )
                self.contributed = 0
            with torch.enable_grad():
                outputs = self.differentiate(batch, index, at)
            if self.skips is not None:
                self.contributed = self.skips.settle(self.progress.window + 1, self.contributed)
            loss = read_loss(outputs, self.run)
            return self.run.strategy.leyden_mean_loss(loss) if self._closes_often else loss if loss is None else loss.detach()

        self._step_by_hook(closure, index, at)
        if calls == 0:
            closure()  # the override decided against a step, not against the batch
        return outputs

    def _step_by_hook(self, closure: Callable[[], Any], index: int, at: int = OPENED) -> None:
        self._closure, self._at = closure, at
        try:
            step = self.run.leyden_steps["optimizer_step"]
            self.hooks.call("optimizer_step", step, self.run.current_epoch, index, self.wrapped[0], closure)
        finally:
            self._closure = None

    def _step_wrapped(self, optimizer: Optimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        """``optimizer.step`` as an override calls it."""
        inner = closure if closure is not None else self._closure

        def complete() -> Any:
            loss = inner() if inner is not None else None
            if self.contributed == 0:
                raise NothingToStep  # old gradients may still be there, and must not be used again
            at, self._at = self._at, OPENED
            self.before_step(optimizer, at)
            return loss

        try:
            if kwargs or not self._takes_closure:
                with torch.enable_grad():
                    loss = complete()
                result = optimizer.step(**kwargs) if kwargs else self.step_optimizer(optimizer)
                result = loss if result is None else result
            else:
                result = self.step_optimizer(optimizer, complete)
        except NothingToStep:
            return None
        self.progress.done = OPTIMIZED
        return result

    def end_window(self, at: int = OPENED) -> None:
        """The data ended inside a window: step with what there is."""
        progress = self.progress
        if at < STEPPED:
            self.stepped = progress.window > 0 and self.average_what_is_there()
            if self.stepped:
                self.step_with_what_is_there(progress.batch - 1, at)
                progress.step += 1
                progress.stepped_batches += 1
            progress.window = 0
        progress.done = STEPPED
        self.step_due(is_last=True)

    def average_what_is_there(self) -> bool:
        """No batch's backward exchanges the gradients of a window that was not filled. Whether any process has some."""
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        trained = [each for group in groups for each in group["params"] if each.requires_grad]
        average = self.run.strategy.leyden_average
        if self.skips is not None:
            self.contributed = self.skips.settle_unfilled(self.progress.window, self.contributed, trained, average)
        elif self.contributed:
            average(trained)
        return self.contributed > 0

    def step_with_what_is_there(self, index: int, at: int = OPENED) -> None:
        """Step with the gradients of a window that no batch will fill."""
        if self.optimizer is None or at >= OPTIMIZED:
            return
        if self.must_close:
            self._step_by_hook(lambda: None, index, at)
        else:
            self.before_step(self.optimizer, at)
            self.step_optimizer(self.optimizer)

    # -- schedulers
    def step_due(self, is_last: bool, concerned: Callable[[SchedulerPlan], bool] = lambda plan: True) -> None:
        """Step the schedulers that count steps, where there was one, and after an epoch's last batch those that count epochs."""
        plan = self.run.leyden_fit.plan
        told = self.hooks.take_heard("lr_scheduler_step")[0] if self.hooks.heard is not None else 0
        due = list(filter(concerned, plan.due("step", self.progress.step))) if self.stepped else []
        if is_last:
            due += plan.due("epoch", self.run.current_epoch + 1)
        if not self.own_scheduler_step:
            for each in due:
                self.step_due_plan(each)
            return
        for number, each in enumerate(due):
            if number >= told:
                self.hooks.told = number
                self.step_scheduler(each)
        self.hooks.told = 0

    def tell_idle_epoch(self) -> bool:
        """A whole epoch went by without a step: all was skipped. Whether nothing would end that but a number of steps."""
        run, limits, batches = self.run, self.run.leyden_options.limits, self.progress.batch
        endless = limits.max_epochs is None and limits.max_time is None
        if not self._told_idle and (endless or (batches and self.optimizer is not None)):
            self._told_idle = True
            which = f"{type(self.module).__name__}.training_step returned None for each of the {batches} batches"
            run.leyden_warn(
                f"{which if batches else 'There was no batch'} of epoch {run.current_epoch}: no step was taken, and no weight "
                f"changed." + (" Return the loss, or a dict with the key 'loss'." if batches else "")
                + (" Nothing but steps limits this run, and there are none: it ends here." if endless else "")
            )  # fmt: skip
        if endless:
            run.leyden_stop("no step was taken in a whole epoch")
        return endless

    def step_plateaus(self, interval: str) -> None:
        """Step the schedulers that wait for a metric."""
        if interval == "step" and (self.progress.window or not self.stepped):
            return
        count = self.run.current_epoch + 1 if interval == "epoch" else self.run.global_step
        told = self.hooks.take_heard("lr_scheduler_step")[0] if self.hooks.heard is not None else 0
        for number, plan in enumerate(self.run.leyden_fit.plan.due(interval, count, plateaus=True)):
            if number >= told:
                self.hooks.told = number
                self.step_scheduler(plan)
        self.hooks.told = 0

    def step_scheduler(self, plan: SchedulerPlan) -> None:
        metric = None
        if plan.monitor is not None and plan.reduce_on_plateau:
            metric = self.run.leyden_metrics.deciding(plan.monitor)
            if metric is None:
                found = self.run.callback_metrics
                text = (
                    f"{type(plan.scheduler).__name__} monitors {plan.monitor!r}, which is not among the logged metrics "
                    f"({', '.join(sorted(found)) or 'there are none'}).{did_you_mean(plan.monitor, found)}"
                )
                if plan.unnamed:
                    example = f"{{'optimizer': ..., 'lr_scheduler': ..., 'monitor': {min(found, default='a logged metric')!r}}}"
                    text += f" No monitor was given, and {plan.monitor!r} is taken then; return {example} to name one."
                if plan.strict:
                    raise MissingMonitor(f"{text} Log it, monitor another, or set strict=False in the lr_scheduler_config.")
                self.run.leyden_warn(f"{text} Its step is left out.")
                return
        if self.own_scheduler_step:
            self._stepping = plan.scheduler, getattr(plan.scheduler, "last_epoch", None)
            self.hooks.call("lr_scheduler_step", self.run.leyden_steps["lr_scheduler_step"], plan.scheduler, metric)
            self._stepping = None
        else:
            self.step_plan(plan, metric)

    @property
    def has_stepped_scheduler(self) -> bool:
        """Whether the hook of the module that runs has stepped its scheduler already."""
        return self._stepping is not None and getattr(self._stepping[0], "last_epoch", None) != self._stepping[1]

    def close(self) -> None:
        """Nothing is held."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        raise ConflictingOptions(
            "manual_backward() belongs to manual optimization. Set self.automatic_optimization = False in __init__, or return "
            "the loss and leave the backward to the trainer."
        )


def optimization_of(run: Run) -> Stepping:
    """How the module of ``run`` is optimized: made when it is first asked for, and anew for other optimizers."""
    if run.leyden_fit.optimization is None:
        automatic = run.lightning_module.automatic_optimization
        run.leyden_fit.optimization = (run.leyden_own_optimization or Automatic)(run) if automatic else Manual(run)
    return run.leyden_fit.optimization
