"""Run: what happens. All state that hooks, callbacks, loops and loggers may read; ``Trainer`` is a Run with verbs."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from leyden.asked import Changes, ChosenPath, ask
from leyden.callback import Callback
from leyden.checked import bare_optimizer, check_bool, check_count, check_number, check_path
from leyden.checkpoint.modes import Modes
from leyden.checkpoint.places import placed
from leyden.checkpoint.random_state import preserved_random_state, random_state, set_random_state
from leyden.data.workers import MOST_WORKER_ERRORS, is_of_worker
from leyden.datamodule import LightningDataModule
from leyden.distributed.rank_zero import rank_zero_print
from leyden.distributed.same_tensors import gathered
from leyden.enums import GradClipAlgorithmType
from leyden.errors import (
    ConflictingOptions,
    InvalidOption,
    LeydenWarning,
    MisconfigurationException,
    warn_user,
)
from leyden.hooks import Hooks, overrides
from leyden.loggers.base import Logger
from leyden.loggers.undisturbed import undrawn_by
from leyden.metrics.metrics import Metrics, read_numbers
from leyden.module import LightningModule
from leyden.options import Options
from leyden.profilers.base import Profiler
from leyden.state.course import Course, Wish
from leyden.state.fit_state import FitState, Stepping
from leyden.state.flight import Flight
from leyden.state.loaders import Loaders
from leyden.state.losses import LossWatch
from leyden.state.progress import Progress
from leyden.state.properties import Properties
from leyden.state.stage import TrainerState
from leyden.strategies.base import Strategy
from leyden.types import ClipAlgorithm


def as_returned(stage: str, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a step returned, as it is."""
    return outputs


class Run(Properties, ABC):
    """What happens. Declares every attribute; other files read them, and ask for changes by the methods below."""

    ckpt_path: Any = ChosenPath()

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
        self.leyden_options = options
        self.strategy = strategy
        self._loggers = loggers
        self.callbacks = callbacks
        self.profiler = profiler
        self.datamodule: LightningDataModule | None = None
        self._module: LightningModule | None = None
        self.leyden_hooks: Hooks | None = None
        self.leyden_steps: dict[str, Callable[..., Any]] = {}
        self.leyden_read_mapping: Callable[[str, Mapping[str, Any]], Mapping[str, Any]] = as_returned
        self.leyden_bar_items: Callable[[], Mapping[str, Any]] | None = None  # what the module wants the bar to show
        # how batches become steps, where it is the module's way
        self.leyden_own_optimization: Callable[[Run], Stepping] | None = None
        # where we are
        self.state = TrainerState()
        self.leyden_metrics = Metrics()
        self.leyden_loaders = Loaders()
        self.leyden_predicted: tuple[list[Any], list[Any]] = ([], [])  # by loader: each batch's predictions, its samples' indices
        self.ckpt_path = None
        self.leyden_ckpt_is_named = False  # whether that path is the one which the user gave
        self.is_last_batch = False
        self.leyden_goes_on = False  # whether the next fit of the same module goes on from where the last one ended
        self._verb_running = False
        self._asked_meanwhile: dict[str, Changes] = {}  # options that were set while a verb ran, for the next one
        self.leyden_modes = Modes()  # before the evaluation that runs
        self.leyden_fit = self.leyden_fresh_fit()

    def leyden_fresh_fit(self) -> FitState:
        """What a fit begins with."""
        return FitState(
            course=Course(self.strategy.processes),
            losses=LossWatch(self),
            progress=Progress(),
            accumulation=self.leyden_options.optimization.accumulate,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what belongs to a running verb: a copy, or what is pickled, is a run at rest."""
        return {
            **self.__dict__,
            "leyden_hooks": None,
            "leyden_steps": {},
            "leyden_read_mapping": as_returned,
            "leyden_bar_items": None,
            "leyden_own_optimization": None,
            "leyden_fit": replace(self.leyden_fit, optimization=None, flight=Flight()),
        }

    # -- wishes
    def stop(self, because: str = "trainer.stop() was called") -> None:
        """Ask training to end after the running batch, once ``min_epochs`` and ``min_steps`` are reached.

        That ends this run only: one that goes on from its checkpoint trains on, unless it is asked again.
        """
        self.leyden_stop(because)

    def leyden_stop(self, because: str) -> None:
        """:meth:`stop`, for those who ask a trainer whose ``stop`` may be the user's own."""
        self.leyden_fit.course.wish(Wish.STOP, because)

    @property
    def should_stop(self) -> bool:
        """Whether training is asked to end. May be set: ``True`` is :meth:`stop`, ``False`` takes the wish back."""
        return self.leyden_fit.course.wishes(Wish.STOP)

    @should_stop.setter
    def should_stop(self, wished: bool) -> None:
        if wished:
            self.leyden_fit.course.wish(Wish.STOP)
        else:
            self.leyden_fit.course.withdraw(Wish.STOP)

    @property
    def leyden_stop_reason(self) -> str | None:
        """Why training was asked to end."""
        return self.leyden_fit.course.reason

    @property
    def received_sigterm(self) -> bool:
        """Whether SIGTERM or SIGUSR1 arrived in the newest verb."""
        return self.leyden_fit.course.was_terminated

    def leyden_raise_if_signalled(self) -> None:
        """Raise what a signal stands for that all processes have heard of: KeyboardInterrupt, or TrainingTerminated."""
        batches = self.leyden_fit.progress.batches
        ended = f"the run was ended after batch {batches}" if batches else "the run was ended before its first batch"
        self.leyden_fit.course.raise_if_signalled(ended if self.leyden_fitting else f"{self.state.fn} was ended")

    @property
    def accumulate_grad_batches(self) -> int:
        """Batches whose gradients make one optimizer step. May be set between epochs, and before a verb."""
        return self.leyden_fit.accumulation

    @accumulate_grad_batches.setter
    def accumulate_grad_batches(self, batches: int) -> None:
        self.leyden_fit.accumulation = check_count("accumulate_grad_batches", batches, 1, "a number of batches >= 1")
        if not self._verb_running:
            ask(self, "accumulate_grad_batches", "optimization", "accumulate", batches)

    @abstractmethod
    def leyden_meet_callbacks(self) -> None:
        """From here on those are told that have joined :attr:`callbacks`, and those that have left it are not."""

    def leyden_follow_accumulation_schedule(self) -> None:
        """An epoch begins: accumulate as ``accumulate_grad_batches={epoch: batches}`` says."""
        schedule = self.leyden_options.optimization.schedule
        if schedule:
            self.accumulate_grad_batches = next(
                batches for epoch, batches in reversed([(0, 1), *schedule.items()]) if epoch <= self.leyden_fit.progress.epoch
            )

    def leyden_asked_accumulation(self) -> list[Any]:
        """What the command says of accumulation."""
        asked = self.leyden_options.optimization
        schedules = (asked.schedule or {}, self.leyden_accumulation_schedule() or {})
        return [asked.accumulate, *([list(item) for item in sorted(each.items())] for each in schedules)]

    def leyden_window_length(self, index: int) -> int:
        """Batches in the accumulation window that begins at batch ``index``: the epoch's last may be shorter."""
        fit = self.leyden_fit
        source = self.leyden_loaders.train
        if fit.accumulation == 1 or source is None or source.stop is None or not source.knows_last:
            return fit.accumulation
        return max(1, min(fit.accumulation, source.stop - index))

    # -- what the loops tell
    def leyden_ready_step(self, name: str) -> Callable[..., Any]:
        """What a loop calls for the module's step ``name``: led through the strategy, measured, in the precision's context."""
        assert self.leyden_hooks is not None
        routed = self.strategy.leyden_route(name, self.leyden_steps[name])
        measured = self.profiler.leyden_around(f"[Strategy]{type(self.strategy).__name__}.{name}", routed)
        return self.leyden_hooks.inside(name, measured, self.strategy.precision.leyden_context(name))

    def leyden_read_returned(self, step: str, stage: str, outputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a step returned as a dict: 2020's are read, and what stands in them counts as logged in the step."""
        assert self.leyden_hooks is not None
        before, self.leyden_hooks.where = self.leyden_hooks.where, step
        try:
            return self.leyden_read_mapping(stage, outputs)
        finally:
            self.leyden_hooks.where = before

    @contextmanager
    def leyden_saving_when_signalled(self, save: Callable[[], None]) -> Iterator[None]:
        """Call ``save`` when the body raises.

        A signal to the whole process group ends a loader's workers too, and PyTorch raises that wherever this process is: while
        the next batch is fetched, or in the middle of saving. It is no error of its own.
        """
        try:
            try:
                yield
            except RuntimeError as error:
                if not self.leyden_fit.course.is_signalled or not is_of_worker(error):
                    raise
                self.leyden_raise_if_signalled()
        except BaseException:
            for _ in range(MOST_WORKER_ERRORS):
                try:
                    save()
                    break
                except RuntimeError as error:
                    if not is_of_worker(error):
                        raise
            raise

    @contextmanager
    def leyden_aside(self) -> Iterator[None]:
        """What runs inside leaves training's random state as it was. A validation that was cut has its own put back first."""
        fit = self.leyden_fit
        with preserved_random_state():
            fit.random_outside = random_state()
            resumed, fit.evaluation_to_resume = fit.evaluation_to_resume, None
            fit.evaluation_cut = resumed
            if resumed is not None and "random" in resumed:
                set_random_state(resumed["random"])
                self.leyden_modes.put(self.lightning_module, resumed["modes"])
                for name, kept in resumed["attributes"].items():
                    if not getattr(self.lightning_module, name, None):
                        setattr(self.lightning_module, name, placed(kept, self.strategy.root_device))
            try:
                yield
            finally:
                fit.random_outside = None

    def leyden_note_epoch(self) -> None:
        """Write the running epoch's metrics into the history. Waits for the device."""
        own: dict[str, float] = {"epoch": self.current_epoch, "step": self.global_step}  # also where a metric is called so
        self.leyden_fit.history.append(own | read_numbers(self.callback_metrics) | own)

    def leyden_begin(self, module: LightningModule, datamodule: LightningDataModule | None) -> None:
        """A verb starts: attach its module and its data."""
        self._module = module
        self.datamodule = datamodule
        module.trainer = self  # type: ignore[assignment]  # every Run that users meet is a Trainer
        if datamodule is not None:
            datamodule.trainer = self  # type: ignore[assignment]  # as above
        self.leyden_modes.forget()
        self.leyden_fit.course.forget_signals()

    def leyden_begin_fit(self) -> None:
        """A fit starts from nothing: forget how far the last one came."""
        arrived = self.leyden_fit.course.signal
        self.leyden_fit = self.leyden_fresh_fit()
        if arrived is not None:
            self.leyden_fit.course.note_signal(arrived)
        self.leyden_fit.losses.open_capsule()
        self.is_last_batch = False

    def leyden_log_row(self, row: Mapping[str, Any], step: int | None = None) -> None:
        """Send values to every logger.

        ``step`` is by default what the module logged under the name ``step``, else the number of the batch that last ended
        with a step; then the epoch stands beside the values.
        """
        if not row or not self.loggers or not self.is_global_zero:
            return
        if step is None and "step" in row:
            row = dict(row)
            step = int(row.pop("step"))
        complete = dict(row)
        if step is None:
            step = self.leyden_log_axis
            complete.setdefault("epoch", self.current_epoch)
        numbers: dict[str, Any] | None = None
        for logger in self.loggers:
            takes = getattr(logger, "leyden_takes_tensors", False) is True
            numbers = numbers if takes or numbers is not None else read_numbers(complete)
            with undrawn_by(logger):
                logger.log_metrics(metrics=dict(complete if takes or numbers is None else numbers), step=step)
                if not takes:
                    logger.save()

    @property
    def leyden_log_axis(self) -> int:
        """The loggers' x: batches that ended with a step, counted from 0."""
        done = self.leyden_fit.progress.stepped_batches
        return max(0, done - 1) if self.leyden_fitting and self.leyden_fit.progress.window == 0 else done

    # -- optimization
    def leyden_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """The module's ``backward`` where it has its own, else the strategy's."""
        module = self.lightning_module
        if overrides(module, LightningModule.backward):
            self.leyden_steps["backward"](loss, *args, **kwargs)
        else:
            self.strategy.backward(loss, getattr(self.leyden_fit.optimization, "optimizer", None), *args, **kwargs)
        self.strategy.leyden_backed()

    def leyden_manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward in manual optimization."""
        if self.leyden_fit.optimization is None:
            raise MisconfigurationException("manual_backward() works inside fit only.")
        self.leyden_fit.optimization.manual_backward(loss, *args, **kwargs)

    def leyden_optimizers_for_user(self, wrapped: bool) -> list[Any]:
        """The optimizers, as hooks and ``training_step`` get them."""
        if wrapped and self.leyden_fit.optimization is not None:
            return list(self.leyden_fit.optimization.wrapped)
        return list(self.leyden_fit.plan.optimizers)

    def leyden_clip_gradients(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: ClipAlgorithm | None = None
    ) -> None:
        """Clip the gradients of ``optimizer``'s parameters."""
        mine = self.leyden_options.optimization
        if gradient_clip_val is None:
            gradient_clip_val = mine.clip_value
        elif mine.clip_value is not None and mine.clip_value != gradient_clip_val:
            raise ConflictingOptions(
                f"clip_gradients(gradient_clip_val={gradient_clip_val}) was called, and Trainer(gradient_clip_val="
                f"{mine.clip_value}) was set. Set it in one place only."
            )
        algorithm = gradient_clip_algorithm if gradient_clip_algorithm is not None else mine.clip_algorithm or "norm"
        algorithm = str(getattr(algorithm, "value", algorithm)).lower()
        if algorithm not in ("norm", "value"):
            raise InvalidOption("gradient_clip_algorithm", gradient_clip_algorithm, '"norm" or "value"')
        if not gradient_clip_val or check_number("gradient_clip_val", gradient_clip_val, "a number") <= 0:
            return
        bare = bare_optimizer(optimizer)
        self.strategy.precision.unscale(bare)  # the threshold is for the gradients themselves
        parameters = [parameter for group in bare.param_groups for parameter in group["params"]]
        if self.strategy.precision.leyden_clips:
            return self.strategy.precision.clip_gradients(bare, gradient_clip_val, GradClipAlgorithmType(algorithm))
        self.strategy.leyden_clip(parameters, gradient_clip_val, algorithm)

    # -- deeds that callbacks ask for
    def save_checkpoint(
        self, filepath: str | os.PathLike[str], weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Write the whole state of training to ``filepath``, durably: never half a file. Called on every process.

        With ``weights_only`` the optimizers', schedulers', loops' and callbacks' states are left out.
        """
        save = self.profiler.leyden_around("save_checkpoint", self.leyden_write_checkpoint)
        with self.strategy.leyden_saving("trainer.save_checkpoint"):
            save(check_path("filepath", filepath), check_bool("weights_only", weights_only or False), storage_options)

    def leyden_write_checkpoint(self, filepath: str | os.PathLike[str], weights_only: bool, storage_options: Any) -> None:
        self.leyden_fit.losses.check()
        self.strategy.save_checkpoint(self._checkpoint(weights_only), filepath, storage_options)

    def leyden_time_of_save(self) -> int:
        """When a checkpoint is taken, in ns since 1970; later than all that this run took before, whatever the clock says."""
        fit = self.leyden_fit
        fit.saved = max(time.time_ns(), fit.saved + 1)
        return fit.saved

    @abstractmethod
    def _options_with(self, given: Mapping[str, Any]) -> Options:
        """The options, checked, as the constructor would read them from its keywords and these."""

    @abstractmethod
    def _checkpoint(self, weights_only: bool) -> dict[str, Any]:
        """Everything that a file has to hold. Those who put it together read every part of a run, this file included."""

    def leyden_remove_checkpoint(self, filepath: str | os.PathLike[str]) -> None:
        """Remove a checkpoint that was written before."""
        if self.is_global_zero:
            self.strategy.remove_checkpoint(filepath)

    def leyden_all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """``data`` of every process; see :meth:`LightningModule.all_gather`."""
        return gathered(self.strategy, Strategy.all_gather, data, group, sync_grads)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process, above the progress bar."""
        if not self.is_global_zero:
            return
        bar = self.progress_bar_callback
        if bar is not None and hasattr(bar, "print"):
            bar.print(*args, **kwargs)
        else:
            rank_zero_print(*args, **kwargs)

    def leyden_warn(self, text: str, category: type[LeydenWarning] = LeydenWarning) -> None:
        """Issue a warning of ours, on the first process."""
        if not self.is_global_zero:
            return
        warn_user(text, category)

    def leyden_accumulation_schedule(self) -> Mapping[int, int] | None:
        """The schedule of a callback that changes accumulation over epochs, where there is one."""
        for callback in self.callbacks:
            schedule: Mapping[int, int] | None = getattr(callback, "scheduling", None)
            if schedule:
                return schedule
        return None
