"""From a batch to steps by hand: manual optimization."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.errors import ConflictingOptions, InvalidReturn
from leyden.inspect.plain import backs_plainly, expects_nothing
from leyden.inspect.step_counts import say_idle, step_counts
from leyden.loops.outputs import differentiate
from leyden.state.optimizers import SteppingOptimizer
from leyden.state.run import Run


class Manual:
    """``training_step`` does backward and steps; steps are counted, hooks fired and precision heeded here."""

    begun_anew = "training_step of manual optimization: nobody but the module knows how far that was"

    def __init__(self, run: Run) -> None:
        options = run.leyden_options.optimization
        if run.accumulate_grad_batches != 1 or options.schedule:
            raise ConflictingOptions(
                f"accumulate_grad_batches={options.schedule or run.accumulate_grad_batches} does not go with manual optimization "
                f"(automatic_optimization = False). Accumulate in training_step."
            )
        if options.clip_value is not None:
            raise ConflictingOptions(
                f"gradient_clip_val={options.clip_value} does not go with manual optimization (automatic_optimization = False). "
                f"Call self.clip_gradients(optimizer, gradient_clip_val=..., gradient_clip_algorithm=...) in training_step."
            )
        assert run.leyden_hooks is not None
        self.run = run
        self.hooks = run.leyden_hooks
        self.module = run.lightning_module
        self.precision = run.strategy.precision
        self.note_loss = run.leyden_fit.losses.note
        self.tells_before_backward = self.hooks.listens(Callback.on_before_backward)
        self.tells_after_backward = self.hooks.listens(Callback.on_after_backward)
        self.prepares_step = self.precision.scales or self.hooks.listens(Callback.on_before_optimizer_step)
        self.forward = run.leyden_ready_step("training_step")
        self.step_optimizer = run.profiler.leyden_around("optimizer_step", run.strategy.leyden_stepping())
        self.wrapped = [
            SteppingOptimizer(optimizer, self._step_wrapped, self.module.toggled_optimizer)
            for optimizer in run.leyden_fit.plan.optimizers
        ]
        self.contributed, self.divisor = 0, 1
        self.has_stepped_scheduler = False
        self._stepped = False
        self._counts = step_counts(run)
        registers = [getattr(each, "register_step_post_hook", None) for each in run.leyden_fit.plan.optimizers]
        self._handles = [register(self._count) for register in registers if register is not None]
        self._by_hand = run.strategy.leyden_by_hand()
        self._backs_plainly = backs_plainly(run) and expects_nothing(run.strategy)

    def step(self, batch: Any, index: int, is_last: bool, at: int = 0) -> Any:
        """Run ``training_step``; a batch in which any optimizer stepped counts as one step.

        A batch that was cut inside ``training_step`` is begun anew: nobody but the module knows how far it was.
        """
        self._stepped = False
        outputs = None if batch is None else self.forward(batch, index)
        if self._by_hand is not None:
            self._by_hand.end_step(self.run.leyden_fit.progress.batches, self._stepped)
        if self._counts is not None and self._counts.tell():
            self._counts = None  # once
        if batch is not None and not self.wrapped and not self._stepped:
            self._count()  # optimizers that we never saw: the batch is the step
        loss: Any = outputs
        if type(outputs) is not Tensor and isinstance(outputs, Mapping):
            outputs = self.run.leyden_read_returned("training_step", "train", outputs)
            loss = outputs.get("loss")
        elif outputs is not None and not isinstance(outputs, Tensor):
            raise InvalidReturn(
                f"{type(self.module).__name__}.training_step returned {outputs!r} ({type(outputs).__name__}). In manual "
                f"optimization return a tensor, a dict, or nothing."
            )
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self.note_loss(loss)
        return outputs

    def _count(self, optimizer: Any = None, *_: Any) -> None:
        if self._counts is not None:
            self._counts.note(optimizer)
        if not self._stepped:
            self._stepped = True  # whatever other optimizers step in this batch
            self.run.leyden_fit.progress.step += 1  # a trial run inside a fit has a progress of its own

    def _step_wrapped(self, optimizer: Optimizer, closure: Callable[[], Any] | None, **kwargs: Any) -> Any:
        if closure is None:
            if self.prepares_step:
                self._finish_gradients(optimizer)
            result = optimizer.step(**kwargs) if kwargs else self.step_optimizer(optimizer)
        else:
            result = self.step_optimizer(optimizer, partial(self._complete, optimizer, closure))
        if not self._stepped or self._counts is not None:  # else it has counted itself, by its own hook
            self._count(optimizer)
        return result

    def _complete(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Any:
        with torch.enable_grad():
            loss = closure()
        self._finish_gradients(optimizer)
        return loss

    def _finish_gradients(self, optimizer: Optimizer) -> None:
        if self.precision.scales:
            self.precision.unscale(optimizer)
        self.hooks.emit(Callback.on_before_optimizer_step, optimizer)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward with hooks and precision heeded."""
        if self.tells_before_backward:
            self.hooks.emit(Callback.on_before_backward, loss)
        if self._backs_plainly:
            differentiate(f"{type(self.module).__name__} gave manual_backward", "do not call it,", loss, *args, **kwargs)
        else:
            loss = self.precision.pre_backward(loss, self.module)
            self.run.strategy.leyden_expect_backward(loss)
            self.hooks.call("backward", self.run.leyden_backward, loss, *args, **kwargs)
        if self.tells_after_backward:
            self.hooks.emit(Callback.on_after_backward)

    def take_up(self, carried: Any) -> None:
        """Windows are the user's."""

    def end_window(self, at: int = 0) -> None:
        """Windows are the user's, and schedulers are the user's to step."""

    def tell_idle_epoch(self) -> bool:
        """Whether to step is the user's to decide: nothing but a word is said."""
        return say_idle(self.run)

    def step_plateaus(self, interval: str) -> None:
        """Schedulers are the user's to step."""

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
