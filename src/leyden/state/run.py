"""Run: what happens. All state that hooks, callbacks, loops and loggers may read; ``Trainer`` is a Run with verbs."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.distributed.rank_zero import rank_zero_print
from leyden.errors import (
    ConflictingOptions,
    InvalidOption,
    LeydenWarning,
    MisconfigurationException,
    NonFiniteLoss,
    TrainingTerminated,
)
from leyden.hooks import Hooks, overrides
from leyden.loggers.base import Logger
from leyden.module import LightningModule
from leyden.options import Options, check_count
from leyden.state.capsule import Capsule
from leyden.state.loaders import Loaders
from leyden.state.metrics import Metrics, read_numbers, stack_scalars
from leyden.state.optimizers import OptimizerPlan, SteppingOptimizer
from leyden.state.progress import Progress
from leyden.state.stage import TrainerState
from leyden.state.views import Views
from leyden.strategies.base import Strategy

if TYPE_CHECKING:
    from leyden.profilers.base import Profiler

LOSSES_KEPT = 50  # losses that wait to be checked; also the most steps that pass before a bad one is seen


class Stepping(Protocol):
    """How a fit optimizes: automatically or by hand."""

    wrapped: list[SteppingOptimizer]

    def step(self, batch: Any, index: int, is_last: bool) -> Any: ...

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None: ...


def as_returned(stage: str, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a step returned, as it is."""
    return outputs


class Run(Views):
    """What happens. Declares every attribute; other files read them, and ask for changes by the methods below."""

    def __init__(
        self,
        *,
        options: Options,
        strategy: Strategy,
        loggers: list[Logger],
        callbacks: list[Callback],
        profiler: Profiler,
    ) -> None:
        # parts
        self.options = options
        self.strategy = strategy
        self.loggers = loggers
        self.callbacks = callbacks
        self.profiler = profiler
        self.datamodule: LightningDataModule | None = None
        self._module: LightningModule | None = None
        self.hooks: Hooks | None = None
        self.steps: dict[str, Callable[..., Any]] = {}
        self.read_mapping: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = as_returned
        self.bar_items: Callable[[], Mapping[str, Any]] | None = None  # what the module wants the bar to show
        self.optimization: Stepping | None = None
        # where we are
        self.state = TrainerState()
        self.progress = Progress()
        self.metrics = Metrics()
        self.loaders = Loaders()
        self.plan = OptimizerPlan.empty()
        self.ckpt_path: str | None = None
        self.is_last_batch = False
        self.validation_follows = False  # the batch that just ended is followed by a validation
        self.interrupted = False
        self.received_sigterm = False
        self.at_safe_place = False  # a signal was heeded between two batches: the state can be saved
        self.received_signal: int | None = None  # SIGTERM, SIGUSR1 or Ctrl-C, to be heeded once the batch is done
        self.own_generators: dict[str, Any] | None = None  # random generators that the module holds, looked for once
        self.before_validation: dict[str, Any] = {}  # of a checkpoint's parts, those that the running validation changes
        self.random_state_to_restore: dict[str, Any] | None = None  # a checkpoint's, put back once nothing else draws
        self.history: list[dict[str, float]] = []  # one row of metrics an epoch
        # wishes
        self.should_stop = False
        self.stop_reason: str | None = None
        self.stop_lasts = True
        self.accumulation = options.optimization.accumulate
        self._modes: dict[torch.nn.Module, bool] = {}  # before the evaluation that runs
        self.capsule: Capsule | None = None
        self.losses: list[Tensor] = []  # detached, not checked yet
        self._losses_from = 0  # `progress.batches` when the first of them was noted
        self._checked_loss: Tensor | None = None
        self.losses_due = LOSSES_KEPT  # `progress.batches` at which they are checked

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to a running verb: a copy, or what is pickled, is a run at rest."""
        at_rest: dict[str, Any] = {"hooks": None, "steps": {}, "read_mapping": as_returned, "bar_items": None}
        return {**self.__dict__, **at_rest, "optimization": None, "capsule": None}

    # -- wishes
    def stop(self, because: str = "trainer.stop() was called", lasting: bool = True) -> None:
        """Ask training to end after the running batch, once ``min_epochs`` and ``min_steps`` are reached.

        A run that goes on from a checkpoint taken after a ``lasting`` wish is finished; else it trains on.
        """
        self.should_stop = True
        self.stop_reason = because
        self.stop_lasts = lasting

    def note_signal(self, number: int) -> None:
        """A signal arrived: to be heeded once the batch is done."""
        self.received_signal = number
        self.received_sigterm = number != signal.SIGINT

    def heed_signal(self) -> None:
        """Raise what the signal that arrived stands for: :class:`KeyboardInterrupt`, or :class:`TrainingTerminated`."""
        number, self.received_signal = self.received_signal, None
        if number is None:
            return
        self.at_safe_place = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise TrainingTerminated(f"{signal.Signals(number).name} arrived: the run was ended after batch {self.progress.batches}.")

    @property
    def accumulate_grad_batches(self) -> int:
        """Batches whose gradients make one optimizer step. May be set between epochs."""
        return self.accumulation

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, batches: int) -> None:
        self.accumulation = check_count("accumulate_grad_batches", batches, 1, "a number of batches >= 1")

    def window_length(self, index: int) -> int:
        """Batches in the accumulation window that begins at batch ``index``: the epoch's last may be shorter."""
        source = self.loaders.train
        if self.accumulation == 1 or source is None or source.stop is None or not source.knows_last:
            return self.accumulation
        return max(1, min(self.accumulation, source.stop - index))

    # -- what the loops tell
    def watch_loss(self, loss: Tensor) -> None:
        """Note a batch's training loss: for the bar, and to see at the next flush whether it was finite."""
        self.losses.append(loss.detach())

    @property
    def latest_loss(self) -> Tensor | None:
        """The newest training loss, on its device."""
        return self.losses[-1] if self.losses else self._checked_loss

    def check_losses(self) -> None:
        """Raise :class:`NonFiniteLoss` where a loss since the last check was NaN or infinite. Waits for the device."""
        losses = list(self.losses)
        self.losses.clear()
        first, self._losses_from = self._losses_from, self.progress.batches
        self.losses_due = self.progress.batches + self.losses_between_checks
        if losses:
            self._checked_loss = losses[-1]
        if not losses or not self.options.optimization.check_finite:
            if self.capsule is not None:
                self.capsule.flush()
            return
        values = stack_scalars(losses)
        if bool(torch.isfinite(values).all()):
            if self.capsule is not None:
                self.capsule.flush()
            return
        shown = values.tolist()
        at = next(i for i, value in enumerate(shown) if value != value or value in (float("inf"), float("-inf")))
        before = ", ".join(f"{value:.6g}" for value in shown[max(0, at - 5) : at])
        batches = self.progress.batches - first
        batch = f"batch {first + at}"
        if len(shown) - batches not in (0, 1):  # some batches had no loss, or several
            batch = f"one of the batches {first} to {self.progress.batches}"
        error = NonFiniteLoss(
            f"The training loss became {shown[at]} in training {batch} of this fit (counted from 0; epoch "
            f"{self.current_epoch}, step {self.global_step} when it was seen). Losses before it: {before or 'none'}. To try: a "
            f"lower learning rate, gradient_clip_val=1.0, detect_anomaly=True to find the operation, precision='32-true', a look "
            f"at the batch's data. Trainer(stop_on_nonfinite_loss=False) trains on regardless."
        )
        if self.capsule is not None:
            self.capsule.write(error, "training_step", at - len(shown), shown[at])
            self.capsule = None
        raise error

    def keep_crash(self, error: Exception, step: str) -> None:
        """A step raised: write what a replay needs, once."""
        if self.capsule is not None:
            capsule, self.capsule = self.capsule, None
            capsule.write(error, step)

    @property
    def losses_between_checks(self) -> int:
        """Steps after which losses are read to see whether they are finite."""
        return 1 if self.capsule is not None and self.capsule.weights else LOSSES_KEPT

    def restore_losses(self, losses: list[Tensor]) -> None:
        """The losses that were not checked when a checkpoint was taken."""
        self.losses[:] = losses
        self._losses_from = self.progress.batches - len(losses)
        self.losses_due = self._losses_from + self.losses_between_checks

    def note_epoch(self) -> None:
        """Write the running epoch's metrics into the history. Waits for the device."""
        self.history.append({"epoch": self.current_epoch, "step": self.global_step, **read_numbers(self.callback_metrics)})

    def begin(self, module: LightningModule, datamodule: LightningDataModule | None) -> None:
        """A verb starts: attach its module and its data."""
        self._module = module
        self.datamodule = datamodule
        module.trainer = self  # type: ignore[assignment]  # every Run that users meet is a Trainer
        if datamodule is not None:
            datamodule.trainer = self  # type: ignore[assignment]  # as above
        self._modes = {}
        self.progress.late = ""
        self.interrupted = False
        self.received_signal = None
        self.received_sigterm = False
        self.at_safe_place = False

    def begin_fit(self) -> None:
        """A fit starts from nothing: forget how far the last one came."""
        self.progress = Progress()
        self.plan = OptimizerPlan.empty()
        self.optimization = None
        self.should_stop = False
        self.stop_reason = None
        self.stop_lasts = True
        self.is_last_batch = False
        self.history = []
        self.losses.clear()
        self._losses_from = 0
        self._checked_loss = None
        self.capsule = None
        if self.options.crash_capsule:
            self.capsule = Capsule(self, weights=self.options.crash_capsule == "weights")
            if not self.capsule.has_place:
                self.capsule = None
        self.losses_due = self.losses_between_checks
        self.accumulation = self.options.optimization.accumulate
        self.random_state_to_restore = None
        self.own_generators = None
        self.before_validation = {}

    def keep_modes(self) -> None:
        """Remember which submodules are in train mode, until :meth:`restore_modes`."""
        self._modes = {child: child.training for child in self.lightning_module.modules()}

    def restore_modes(self) -> None:
        """Put every submodule back into the mode it had at the last :meth:`keep_modes`."""
        for child, mode in self._modes.items():
            child.training = mode

    def forget_modes(self) -> None:
        """The evaluation is over, and the module in the modes that its hook left it in."""
        self._modes = {}

    def log_row(self, row: Mapping[str, Any], step: int | None = None) -> None:
        """Send values to every logger.

        ``step`` is by default what the module logged under the name ``step``, else the number of the batch that last ended
        with a step.
        """
        if not self.loggers or not self.is_global_zero:
            return
        if step is None and "step" in row:
            row = dict(row)
            step = int(row.pop("step"))
        if step is None:
            step = self.log_axis
        complete = {**row, "epoch": row.get("epoch", self.current_epoch)}
        numbers: dict[str, Any] | None = None
        for logger in self.loggers:
            if getattr(logger, "takes_tensors", False):
                logger.log_metrics(dict(complete), step)
            else:
                if numbers is None:
                    numbers = read_numbers(complete)
                logger.log_metrics(dict(numbers), step)

    @property
    def log_axis(self) -> int:
        """The loggers' x: batches that ended with a step, counted from 0."""
        done = self.progress.stepped_batches
        return max(0, done - 1) if self.fitting and self.progress.window == 0 else done

    # -- optimization
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The module's ``backward`` where it has its own, else the strategy's."""
        module = self.lightning_module
        if overrides(module, LightningModule.backward):
            self.steps["backward"](loss, *args, **kwargs)
        else:
            self.strategy.backward(loss, *args, **kwargs)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward in manual optimization."""
        if self.optimization is None:
            raise MisconfigurationException("manual_backward() works inside fit only.")
        self.optimization.manual_backward(loss, *args, **kwargs)

    def optimizers_for_user(self, wrapped: bool) -> list[Any]:
        """The optimizers, as hooks and ``training_step`` get them."""
        if wrapped and self.optimization is not None:
            return list(self.optimization.wrapped)
        return list(self.plan.optimizers)

    def clip_gradients(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the gradients of ``optimizer``'s parameters."""
        mine = self.options.optimization
        if gradient_clip_val is None:
            gradient_clip_val = mine.clip_value
        elif mine.clip_value is not None and mine.clip_value != gradient_clip_val:
            raise ConflictingOptions(
                f"clip_gradients(gradient_clip_val={gradient_clip_val}) was called, and Trainer(gradient_clip_val="
                f"{mine.clip_value}) was set. Set it in one place only."
            )
        algorithm = gradient_clip_algorithm if gradient_clip_algorithm is not None else mine.clip_algorithm
        algorithm = str(getattr(algorithm, "value", algorithm)).lower()
        if algorithm not in ("norm", "value"):
            raise InvalidOption("gradient_clip_algorithm", gradient_clip_algorithm, '"norm" or "value"')
        if not gradient_clip_val or gradient_clip_val <= 0:
            return
        bare = getattr(optimizer, "optimizer", optimizer)
        parameters = [parameter for group in bare.param_groups for parameter in group["params"]]
        if algorithm == "norm":
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)

    # -- deeds that callbacks ask for
    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Write the whole state of training to ``filepath``, durably: never half a file. Called on every process.

        With ``weights_only`` the optimizers', schedulers', loops' and callbacks' states are left out.
        """
        from leyden.state.snapshot import take  # it reads every part of a Run, this file included

        self.check_losses()
        checkpoint = take(self, bool(weights_only))
        self.strategy.save_checkpoint(checkpoint, filepath, storage_options)

    def remove_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """Remove a checkpoint that was written before."""
        if self.is_global_zero:
            self.strategy.remove_checkpoint(filepath)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """``data`` of every process; see :meth:`LightningModule.all_gather`."""
        from leyden.tree import tree_map

        return tree_map(data, Tensor, lambda tensor: self.strategy.all_gather(tensor, group, sync_grads))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process, above the progress bar."""
        if not self.is_global_zero:
            return
        bar = self.progress_bar_callback
        if bar is not None and hasattr(bar, "print"):
            bar.print(*args, **kwargs)
        else:
            rank_zero_print(*args, **kwargs)

    def warn(self, text: str, category: type[LeydenWarning] = LeydenWarning) -> None:
        """Issue a warning of ours."""
        warnings.warn(text, category, stacklevel=3)

    @property
    def estimated_stepping_batches(self) -> int | float:
        """Optimizer steps that the whole fit will take, limits and accumulation included; infinity where unknown.

        Loads the training loader where that has not happened yet. The same before and after a resume.
        """
        limits = self.options.limits
        steps = float("inf") if limits.max_steps is None else limits.max_steps
        if limits.max_epochs is None:
            return steps
        source = self.loaders.train
        if source is None:
            source = self.loaders.load_train(limits)
        if source.stop is None:
            return steps
        schedule = self.options.optimization.schedule or self.accumulation_schedule()
        if not schedule:
            total = -(-source.stop // self.accumulation) * limits.max_epochs
        else:
            total, window = 0, 1
            for epoch in range(limits.max_epochs):
                window = schedule.get(epoch, window)
                total += -(-source.stop // window)
        return min(total, steps)

    def accumulation_schedule(self) -> Mapping[int, int] | None:
        """The schedule of a callback that changes accumulation over epochs, where there is one."""
        for callback in self.callbacks:
            schedule: Mapping[int, int] | None = getattr(callback, "scheduling", None)
            if schedule:
                return schedule
        return None
