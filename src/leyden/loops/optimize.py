"""From a batch to a step: automatic optimization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.devices.precision import Precision
from leyden.errors import ConflictingOptions, MissingMonitor, did_you_mean
from leyden.hooks import overrides
from leyden.loops.outputs import read_loss, refuse_loss
from leyden.module import LightningModule
from leyden.state.optimizers import SchedulerPlan, SteppingOptimizer, requires_closure, takes_closure
from leyden.state.run import Run


class NothingToStep(Exception):
    """Leaves an optimizer's step where every batch of the window was skipped."""


class Automatic:
    """Forward, zero, backward, clip, step: as a hand-written loop does, with the hooks in between."""

    def __init__(self, run: Run) -> None:
        module = run.lightning_module
        self.run = run
        self.module = module
        assert run.hooks is not None
        self.hooks = run.hooks
        self.optimizer: Optimizer | None = run.plan.optimizers[0] if run.plan.optimizers else None
        self.precision = run.strategy.precision
        profiler = run.profiler
        self.training_step = profiler.around(
            f"[LightningModule]{type(module).__name__}.training_step", run.steps["training_step"]
        )
        self.own_backward = (
            overrides(module, LightningModule.backward)
            or type(self.precision).backward is not Precision.backward
            or profiler.active
        )
        self.own_zero_grad = overrides(module, LightningModule.optimizer_zero_grad)
        # what Optimizer.zero_grad does, without the profiler's label around it: that costs more than the deed
        self.zeroes_plainly = (
            self.optimizer is not None
            and type(self.optimizer).zero_grad is Optimizer.zero_grad
            and "zero_grad" not in vars(self.optimizer)
            and not run.profiler.active
        )
        self.own_clipping = overrides(module, LightningModule.configure_gradient_clipping)
        self.own_scheduler_step = overrides(module, LightningModule.lr_scheduler_step)
        self.must_close = self.optimizer is not None and (
            overrides(module, LightningModule.optimizer_step) or requires_closure(self.optimizer)
        )
        self.clips = self.own_clipping or run.options.optimization.clip_value is not None
        self.step_schedulers = [plan for plan in run.plan.schedulers if plan.interval == "step" and not plan.reduce_on_plateau]
        self.epoch_schedulers = [plan for plan in run.plan.schedulers if plan.interval == "epoch" and not plan.reduce_on_plateau]
        self.plateau_schedulers = [plan for plan in run.plan.schedulers if plan.reduce_on_plateau]
        self.wrapped = (
            [] if self.optimizer is None else [SteppingOptimizer(self.optimizer, self._step_wrapped, module.toggled_optimizer)]
        )
        self.progress = run.progress
        self.note_loss = run.losses.append
        self.autocasts, self.scales = self.precision.has_forward_context, self.precision.scales
        self.tells_zero_grad = self.hooks.listens(Callback.on_before_zero_grad)
        self.tells_before_backward = self.hooks.listens(Callback.on_before_backward)
        self.tells_after_backward = self.hooks.listens(Callback.on_after_backward)
        self.prepares_step = self.scales or self.clips or self.hooks.listens(Callback.on_before_optimizer_step)
        plain_step = type(self.precision).step is Precision.step
        self.step_optimizer: Callable[..., Any] = profiler.around(
            "optimizer_step", _step_plainly if plain_step else self.precision.step
        )
        self._window = 1  # batches that make a step
        self._divisor = 1  # batches of the running window, so that its gradient is their mean
        self._contributed = 0  # batches whose gradients are in
        self._closure: Callable[[], Any] | None = None  # of the running batch, until it was called
        self._takes_closure = self.optimizer is not None and takes_closure(self.optimizer)
        self._told_idle = False
        self.stepped = True  # whether the newest batch that filled its window took a step

    # -- one batch
    def step(self, batch: Any, index: int, is_last: bool) -> Any:
        """Train on a batch; returns what ``training_step`` returned."""
        progress = self.progress
        if progress.window == 0:
            self._window = self.run.accumulation
            self._divisor = 1 if self._window == 1 else self.run.window_length(index)
            self._contributed = 0
        full = is_last or progress.window + 1 >= self._window
        if full and self.must_close:
            outputs = self._by_closure(batch, index)
            self.stepped = self._contributed > 0
        else:
            outputs = self._differentiate(batch, index)
            self.stepped = stepped = full and self._contributed > 0
            if stepped and self.optimizer is not None:
                if self.prepares_step or self._contributed != self._divisor:
                    self._before_step(self.optimizer)
                self.step_optimizer(self.optimizer)
        if not full:
            progress.window += 1
            progress.contributed = self._contributed
            return outputs
        progress.window = 0
        if self.stepped:
            progress.step += 1
            for plan in self.step_schedulers:
                if progress.step % plan.frequency == 0:
                    self.step_scheduler(plan)
        if is_last:
            self.end_epoch()
        return outputs

    def _differentiate(self, batch: Any, index: int) -> Any:
        """Forward and backward of one batch."""
        hooks = self.hooks
        outside, hooks.where = hooks.where, "training_step"
        if self.autocasts:
            with self.precision.forward_context():
                outputs = self.training_step(batch, index)
        else:
            outputs = self.training_step(batch, index)
        loss: Any = outputs
        if type(outputs) is not Tensor:
            if outputs is not None:
                outputs = self.run.read_mapping("train", outputs)
            loss = read_loss(outputs, self.run)
        hooks.where = outside
        if loss is None:
            if self.run.capsule is not None:
                self.run.capsule.drop()
            return None
        self.note_loss(loss.detach())
        optimizer = self.optimizer
        if self._contributed == 0 and optimizer is not None:
            if self.tells_zero_grad:
                hooks.emit(Callback.on_before_zero_grad, optimizer)
            if self.own_zero_grad:
                hooks.call("optimizer_zero_grad", self.module.optimizer_zero_grad, self.run.current_epoch, index, optimizer)
            elif self.zeroes_plainly:
                for group in optimizer.param_groups:
                    for parameter in group["params"]:
                        parameter.grad = None
            else:
                optimizer.zero_grad()
        self._contributed += 1
        if self._divisor != 1:
            loss = loss / self._divisor
        if self.tells_before_backward:
            hooks.emit(Callback.on_before_backward, loss)
        if self.scales:
            loss = self.precision.scale(loss)
        if self.own_backward:
            hooks.call("backward", self.run.backward, loss)
        else:
            try:
                loss.backward()
            except RuntimeError as error:
                refuse_loss(loss, self.run, error)
                raise
        if self.tells_after_backward:
            hooks.emit(Callback.on_after_backward)
        return outputs

    def continue_window(self) -> None:
        """A resumed run begins inside a window: the gradients of its first batches are there already."""
        progress = self.progress
        if progress.window:
            self._window = self.run.accumulate_grad_batches
            self._divisor = 1 if self._window == 1 else self.run.window_length(progress.batch - progress.window)
            self._contributed = progress.contributed

    def _before_step(self, optimizer: Optimizer) -> None:
        """Gradients are complete: make them the window's mean, unscale, tell, clip."""
        if self._contributed not in (0, self._divisor):
            # the window came out shorter than its length was known to be (a loader that ended, a skipped batch)
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, self._divisor / self._contributed)
        if self.precision.scales:
            self.precision.unscale(optimizer)
        self.hooks.emit(Callback.on_before_optimizer_step, optimizer)
        if self.clips:
            self.clip(optimizer)

    def clip(self, optimizer: Optimizer) -> None:
        options = self.run.options.optimization
        if self.own_clipping:
            self.hooks.call(
                "configure_gradient_clipping",
                self.module.configure_gradient_clipping,
                optimizer,
                options.clip_value,
                options.clip_algorithm,
            )
        else:
            self.run.clip_gradients(optimizer, options.clip_value, options.clip_algorithm)

    # -- optimizers and modules that want a closure
    def _by_closure(self, batch: Any, index: int) -> Any:
        """The step is the module's or the optimizer's: hand it forward and backward as a closure."""
        assert self.optimizer is not None
        outputs: Any = None
        calls = 0
        fresh = self._contributed

        def closure() -> Tensor | None:
            nonlocal outputs, calls
            self._closure = None
            calls += 1
            if calls > 1:
                if fresh > 0:
                    raise ConflictingOptions(
                        f"{type(self.optimizer).__name__} evaluates the loss several times in a step, and with "
                        f"accumulate_grad_batches={self.run.accumulate_grad_batches} the earlier batches are gone by then. Use "
                        f"accumulate_grad_batches=1."
                    )
                self._contributed = 0
            with torch.enable_grad():
                outputs = self._differentiate(batch, index)
            loss = read_loss(outputs, self.run)
            return loss.detach() if loss is not None else None

        self._step_by_hook(closure, index)
        if calls == 0:
            closure()  # the override decided against a step, not against the batch
        return outputs

    def _step_by_hook(self, closure: Callable[[], Any], index: int) -> None:
        self._closure = closure
        try:
            self.hooks.call(
                "optimizer_step", self.run.steps["optimizer_step"], self.run.current_epoch, index, self.wrapped[0], closure
            )
        finally:
            self._closure = None

    def _step_wrapped(self, optimizer: Optimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        """``optimizer.step`` as an override calls it."""
        inner = closure if closure is not None else self._closure

        def complete() -> Any:
            loss = inner() if inner is not None else None
            if self._contributed == 0:
                raise NothingToStep  # old gradients may still be there, and must not be used again
            self._before_step(optimizer)
            return loss

        try:
            if kwargs or not self._takes_closure:
                with torch.enable_grad():
                    loss = complete()
                result = optimizer.step(**kwargs) if kwargs else self.step_optimizer(optimizer)
                return loss if result is None else result
            return self.step_optimizer(optimizer, complete)
        except NothingToStep:
            return None

    def end_window(self) -> None:
        """The data ended inside a window: step with what there is."""
        progress = self.progress
        if progress.window and self._contributed:
            if self.must_close:
                self._step_by_hook(lambda: None, progress.batch - 1)
            elif self.optimizer is not None:
                self._before_step(self.optimizer)
                self.step_optimizer(self.optimizer)
            progress.step += 1
            progress.stepped_batches += 1
            for plan in self.step_schedulers:
                if progress.step % plan.frequency == 0:
                    self.step_scheduler(plan)
        progress.window = 0

    # -- schedulers
    def end_epoch(self) -> None:
        """The epoch's last batch is done: step the schedulers that count epochs."""
        for plan in self.epoch_schedulers:
            if (self.run.current_epoch + 1) % plan.frequency == 0:
                self.step_scheduler(plan)

    def tell_idle_epoch(self) -> None:
        """A whole epoch went by without a step: every batch was skipped."""
        run = self.run
        if self._told_idle or self.optimizer is None:
            return
        self._told_idle = True
        run.warn(
            f"{type(self.module).__name__}.training_step returned None for each of the {run.progress.batch} batches of epoch "
            f"{run.current_epoch}: no step was taken, and no weight changed. Return the loss, or a dict with the key 'loss'."
        )

    def step_plateaus(self, interval: str) -> None:
        """Step the schedulers that wait for a metric."""
        if interval == "step" and (self.progress.window or not self.stepped):
            return
        for plan in self.plateau_schedulers:
            count = self.run.current_epoch + 1 if interval == "epoch" else self.run.global_step
            if plan.interval == interval and count % plan.frequency == 0:
                self.step_scheduler(plan)

    def step_scheduler(self, plan: SchedulerPlan) -> None:
        metric = None
        if plan.monitor is not None and (plan.reduce_on_plateau or self.own_scheduler_step):
            found = self.run.callback_metrics
            metric = found.get(plan.monitor)
            if metric is None and plan.reduce_on_plateau:
                text = (
                    f"{type(plan.scheduler).__name__} monitors {plan.monitor!r}, which is not among the logged metrics "
                    f"({', '.join(sorted(found)) or 'there are none'}).{did_you_mean(plan.monitor, found)}"
                )
                if plan.strict:
                    raise MissingMonitor(f"{text} Log it, monitor another, or set strict=False in the lr_scheduler_config.")
                self.run.warn(f"{text} Its step is left out.")
                return
        if self.own_scheduler_step:
            self.hooks.call("lr_scheduler_step", self.module.lr_scheduler_step, plan.scheduler, metric)
        elif metric is None:
            plan.scheduler.step()
        else:
            plan.scheduler.step(metric)

    def close(self) -> None:
        """Nothing is held."""

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        raise ConflictingOptions(
            "manual_backward() belongs to manual optimization. Set self.automatic_optimization = False in __init__, or return "
            "the loss and leave the backward to the trainer."
        )


def _step_plainly(optimizer: Optimizer, closure: Callable[[], Any] | None = None) -> Any:
    return optimizer.step() if closure is None else optimizer.step(closure)
