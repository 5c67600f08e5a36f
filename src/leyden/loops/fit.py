"""Training: epochs of batches, with validation when it is due."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from torch import Tensor

from leyden.callback import Callback
from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.source import Source
from leyden.errors import ConflictingOptions, InvalidOption
from leyden.loops.evaluate import EvaluateLoop
from leyden.loops.manual import Manual
from leyden.loops.moving import Mover
from leyden.loops.optimize import Automatic
from leyden.loops.outputs import detached
from leyden.schedule import EveryDuration, EveryN
from leyden.state.run import Run
from leyden.state.snapshot import changed_by_validation, put_random_state
from leyden.state.stage import RunningStage


class FitLoop:
    """Trains. What is finished is counted in ``run.progress``; a resumed run goes on from there."""

    def __init__(self, run: Run, validates: bool) -> None:
        assert run.hooks is not None
        self.run = run
        self.hooks = run.hooks
        self.move = Mover(run)
        self.validation = EvaluateLoop(run, "val") if validates else None
        self.optimization: Automatic | Manual = Automatic(run) if run.lightning_module.automatic_optimization else Manual(run)
        run.optimization = self.optimization
        self.log_due = EveryN(run.options.watching.log_every_n_steps)
        self.validation_clock: EveryDuration | None = None
        self.validation_every: int | None = None  # batches; None: at the epoch's end
        self.logs = bool(run.loggers)
        self.tells_late = self.hooks.listens_late(Callback.on_train_batch_end)
        self.has_plateaus = any(plan.reduce_on_plateau for plan in run.plan.schedulers)
        limit = run.options.limits.max_steps
        self.max_steps: float = float("inf") if limit is None else limit
        self.index = 0
        self.loaded_in = 0  # the epoch in which the loaders were made

    # -- the story
    def run_fit(self, resuming: bool) -> None:
        self.hooks.emit(Callback.on_fit_start)
        if resuming:
            self.take_up()
        else:
            self.check_sanity()
        if self.run.options.limits.train == 0 or self.is_finished():
            self.hooks.emit(Callback.on_fit_end)
            return
        with self.run.in_stage(RunningStage.TRAINING):
            source = self.load()
            train_epoch = self.run.profiler.around("run_training_epoch", self.train_epoch)
            self.run.metrics.open_epoch("train", resuming)
            self.hooks.emit(Callback.on_train_start)
            put_random_state(self.run)
            try:
                if self.run.progress.late:
                    self.tell_rest()
                while not self.is_finished():
                    source = self.reload_if_due(source)
                    train_epoch(source)
            except RuntimeError as error:
                if self.run.received_signal is None or "DataLoader worker" not in str(error):
                    raise
                # The signal went to the whole process group, and ended a worker while the next batch was being fetched.
                try:
                    self.run.heed_signal()
                finally:
                    self.save_if_safe()
            except BaseException:
                self.save_if_safe()
                raise
            self.hooks.emit(Callback.on_train_end)
            self.hooks.emit(Callback.on_fit_end)

    def train_epoch(self, source: Source) -> None:
        """One epoch, or what is left of it."""
        run, hooks, progress = self.run, self.hooks, self.run.progress
        if progress.batch == 0 and progress.settled == progress.batches:
            run.metrics.start_epoch("train")
            self.follow_accumulation_schedule()
            hooks.emit(Callback.on_train_epoch_start)
        else:
            run.metrics.enter("train")
            self.optimization.continue_window()
            self.finish_batch(progress.closed)
            if progress.closed:
                self.validate_closed()
        steps, whole = progress.step, progress.batch == 0
        if not progress.closed and not self.is_cut():
            self.train_batches(source)
        if whole and progress.closed and progress.batch and progress.step == steps:
            self.optimization.tell_idle_epoch()
        run.metrics.end_batches()
        run.check_losses()
        self.end_epoch()

    def train_batches(self, source: Source) -> None:
        """The batches of an epoch."""
        run, hooks, progress, metrics = self.run, self.hooks, self.run.progress, self.run.metrics
        moves = not self.move.idle
        move = run.profiler.around("batch_to_device", self.move)
        step = run.profiler.around("run_training_batch", self.optimization.step)
        asks = hooks.listens(Callback.on_train_batch_start)
        tells = hooks.listens(Callback.on_train_batch_end)
        self.source = source
        capsule, losses = run.capsule, run.losses
        due = self.next_due()
        is_last = False
        metrics.start_batches(self.samples_in_batch)
        for batch, index, is_last in run.profiler.along("train_dataloader_next", source.read(progress.epoch, progress.batch)):
            run.is_last_batch = is_last
            if moves:
                batch = move(batch)
            self.index = index
            metrics.batch, metrics.size = batch, None
            if asks and any(map(is_skip, hooks.ask(Callback.on_train_batch_start, batch, index))):
                self.close_data()
                return
            if capsule is not None:
                capsule.batch, capsule.index = batch, index
                if capsule.notes:
                    capsule.note(batch, index)
            try:
                outputs = step(batch, index, is_last)
            except Exception as error:
                run.keep_crash(error, "training_step")
                raise
            told: Any = None
            progress.batch += 1
            progress.batches += 1
            if progress.window == 0:
                progress.stepped_batches += 1
            if is_last:
                progress.closed = True
            if tells or self.tells_late:
                told = {"loss": losses[-1]} if losses and type(outputs) is Tensor else detached(outputs)
            if tells:
                hooks.emit(Callback.on_train_batch_end, told, batch, index)
            if is_last or progress.batches >= due or run.should_stop:
                self.finish_batch(is_last, told, batch)
                due = self.next_due()
            if run.received_signal is not None:
                run.heed_signal()
            if (run.should_stop or progress.step >= self.max_steps) and self.is_cut():
                return
        if not is_last and progress.batch and (source.stop is None or progress.batch < source.stop):
            self.end_short(source)

    def next_due(self) -> int:
        """The count of batches after which something follows a batch; 0 where that has to be asked after each."""
        run, progress = self.run, self.run.progress
        watches = self.validation is not None and (self.validation_every is not None or self.validation_clock is not None)
        if watches or self.tells_late or self.has_plateaus or run.accumulation != 1:
            return 0
        every = self.log_due.n
        if not self.logs or not every:
            return run.losses_due
        return min(run.losses_due, progress.batches + every - progress.stepped_batches % every)

    def finish_batch(self, is_last: bool, outputs: Any = None, batch: Any = None) -> None:
        """What follows a batch: its row, checkpoints, validation. Does only what is not done yet, so a resume may call it."""
        run, progress = self.run, self.run.progress
        batches = progress.batches
        if progress.settled == batches:
            return
        if progress.rows != batches:
            if self.logs and progress.window == 0 and (self.log_due(progress.stepped_batches) or run.should_stop):
                row = run.metrics.step_row()
                if row:
                    run.log_row(row)
            if batches >= run.losses_due:
                run.check_losses()
            progress.rows = batches
            if self.validation is not None:
                run.validation_follows = progress.validated != batches and self.validation_is_due(is_last)
            if self.tells_late:
                self.hooks.emit_late(Callback.on_train_batch_end, outputs, batch, self.index)
        elif self.validation is not None:
            run.validation_follows = progress.validated != batches and self.validation_is_due(is_last)
        if run.validation_follows:
            run.validation_follows = False
            self.validate()
            self.optimization.step_plateaus("step")
            progress.settled = batches
            with run.in_stage(RunningStage.VALIDATING):
                self.hooks.emit_late(Callback.on_validation_end)
            return
        if self.has_plateaus:
            self.optimization.step_plateaus("step")
        progress.settled = batches

    def take_up(self) -> None:
        """See whether a resumed run has anything left to train. A limit that has been raised lets its last epoch go on."""
        run, progress = self.run, self.run.progress
        if progress.epoch_ended and not progress.closed:  # it was ended inside an epoch
            if not self.is_cut():
                progress.epoch_ended, progress.late, progress.told = False, "", 0
                run.history = [row for row in run.history if row["epoch"] != progress.epoch]
            elif not progress.late:
                progress.start_next_epoch()
        if self.has_trained():
            run.print(f"The run in {run.ckpt_path} is finished: {run.stop_reason or 'it has reached its limit'}.")

    def tell_rest(self) -> None:
        """The run was cut off while callbacks that save were told of a hook: tell those that were not."""
        progress, hooks = self.run.progress, self.hooks
        if progress.late == "on_train_epoch_end":
            self.run.metrics.end_batches()
            hooks.emit_late(Callback.on_train_epoch_end)
            self.run.metrics.end_epoch()
            progress.start_next_epoch()
        elif progress.late == "on_validation_end":
            with self.run.in_stage(RunningStage.VALIDATING):
                hooks.emit_late(Callback.on_validation_end)
        elif progress.late == "on_train_batch_end":
            self.run.validation_follows = self.validation is not None and self.validation_is_due(progress.closed)
            hooks.emit_late(Callback.on_train_batch_end, None, None, progress.batch - 1)
        progress.late = ""

    def end_short(self, source: Source) -> None:
        """The loader ended before its own length: say so, and do what was to follow its last batch."""
        run, progress = self.run, self.run.progress
        if source.length is not None:
            run.warn(
                f"{source.name} ended after {progress.batch} of the {source.stop} batches that it said it has (epoch "
                f"{progress.epoch}): the epoch ends there. Correct the length of its sampler or dataset if data is missing."
            )
        self.close_data()
        self.validate_closed()

    def validate_closed(self) -> None:
        """Validate after a last batch that did not know it was one, where that is due and not done."""
        progress = self.run.progress
        if self.validation is not None and progress.validated != progress.batches and self.validation_is_due(True):
            self.validate()
            with self.run.in_stage(RunningStage.VALIDATING):
                self.hooks.emit_late(Callback.on_validation_end)

    def close_data(self) -> None:
        """No batch follows in this epoch, and the last one did not know it: do what was left to it."""
        self.run.is_last_batch = True
        self.optimization.end_window()
        self.optimization.end_epoch()
        self.run.progress.closed = True

    def end_epoch(self) -> None:
        """After the last batch: hooks, the epoch's row, schedulers that wait for a metric, checkpoints."""
        run, progress = self.run, self.run.progress
        self.hooks.emit(Callback.on_train_epoch_end)
        run.metrics.callback()
        row = run.metrics.epoch_row()
        if row:
            run.log_row(row)
        if progress.closed:
            self.optimization.step_plateaus("epoch")
        run.note_epoch()
        progress.epoch_ended = True
        self.hooks.emit_late(Callback.on_train_epoch_end)
        run.metrics.end_epoch()
        progress.start_next_epoch()

    def save_if_safe(self) -> None:
        """A signal ends the run between two batches: keep all that was done."""
        if self.run.at_safe_place and self.run.progress.batches:
            for writer in self.run.checkpoint_callbacks[:1]:
                writer.save_now(self.run)

    def close(self) -> None:
        """Let go of what was hooked onto the optimizers, and of the loaders' workers."""
        if self.run.loaders.train is not None:
            self.run.loaders.train.position.close()
        self.optimization.close()

    # -- when to stop
    def is_over(self) -> bool:
        """Whether no epoch is to follow."""
        limits, progress = self.run.options.limits, self.run.progress
        if limits.max_epochs is not None and progress.epoch >= limits.max_epochs:
            return True
        return self.is_cut()

    def is_finished(self) -> bool:
        """Whether training is over, and the epoch in which that was is ended too."""
        return self.run.progress.batch == 0 and self.is_over()

    def has_trained(self) -> bool:
        """Whether no batch is to follow: at most callbacks are left to be told of the end."""
        limits, progress = self.run.options.limits, self.run.progress
        if progress.late != "on_train_epoch_end":
            return self.is_finished()
        return self.is_cut() or (limits.max_epochs is not None and progress.epoch + 1 >= limits.max_epochs)

    def is_cut(self) -> bool:
        """Whether training ends here, in the middle of an epoch or not."""
        run, limits, progress = self.run, self.run.options.limits, self.run.progress
        if limits.max_steps is not None and progress.step >= limits.max_steps:
            return True
        if not run.should_stop:
            return False
        return progress.epoch >= limits.min_epochs and progress.step >= limits.min_steps

    # -- validation
    def check_sanity(self) -> None:
        """A few validation batches before training, so that its mistakes show now. Leaves no trace."""
        run = self.run
        most = run.options.validation.sanity_batches
        if self.validation is None or most == 0:
            return
        with run.in_stage(RunningStage.SANITY_CHECKING), preserved_random_state():
            self.hooks.emit(Callback.on_sanity_check_start)
            if self.load_validation():
                self.validation.run_epoch(most)
            run.metrics.forget("val")
            self.hooks.emit(Callback.on_sanity_check_end)

    def load_validation(self) -> bool:
        run = self.run
        if "val" not in run.loaders.eval:
            with preserved_random_state():  # the method that makes the loader may draw
                run.loaders.load_eval("val", run.options.limits.val)
        return "val" in run.loaders.eval

    def validation_is_due(self, is_last: bool) -> bool:
        run, progress, options = self.run, self.run.progress, self.run.options.validation
        if options.every_n_epochs is not None and (progress.epoch + 1) % options.every_n_epochs:
            return False
        if self.validation_clock is not None:
            return self.validation_clock(time.monotonic())
        if run.should_stop and self.is_cut():
            return True
        if self.validation_every is None:
            return is_last
        count = progress.batches if options.every_n_epochs is None else progress.batch
        return count % self.validation_every == 0

    def validate(self) -> None:
        """Validate in the middle of training. Training's random state is put back afterwards, so validation changes nothing."""
        run = self.run
        assert self.validation is not None
        run.check_losses()
        with preserved_random_state(), run.in_stage(RunningStage.VALIDATING):
            if run.progress.window == 0:
                self.hooks.call("on_validation_model_zero_grad", run.lightning_module.on_validation_model_zero_grad)
            if self.load_validation():
                run.before_validation = changed_by_validation(run)  # stays where a signal breaks off in between
                self.validation.run_epoch(None)
        run.before_validation = {}
        run.progress.validated, run.progress.validation_rows = run.progress.batches, 0
        run.metrics.leave("train")

    # -- loaders
    def load(self) -> Source:
        """Load training's loader, then validation's, and read when validation is due."""
        run = self.run
        source = run.loaders.train or run.loaders.load_train(run.options.limits)
        if self.validation is not None:
            self.load_validation()
        self.read_interval(source)
        return source

    def reload_if_due(self, source: Source) -> Source:
        run = self.run
        every, epoch = run.options.behaviour.reload_every_n_epochs, run.progress.epoch
        if not every or epoch % every or epoch == self.loaded_in:
            if run.progress.batch == 0 and source.measure() and isinstance(run.options.validation.interval, float):
                self.read_interval(source)  # a share of another length
            return source
        self.loaded_in = epoch
        source = run.loaders.load_train(run.options.limits)
        self.read_interval(source)
        run.loaders.eval.pop("val", None)
        if self.validation is not None:
            self.load_validation()
        return source

    def read_interval(self, source: Source) -> None:
        self.loaded_in = self.run.progress.epoch
        options = self.run.options.validation
        interval = options.interval
        if isinstance(interval, timedelta):
            self.validation_clock = self.validation_clock or EveryDuration(interval.total_seconds())
            self.validation_clock.start(time.monotonic())
        elif isinstance(interval, int):
            if options.every_n_epochs is not None and source.stop is not None and interval > source.stop and self.validation:
                raise ConflictingOptions(
                    f"val_check_interval={interval} is more than the {source.stop} training batches of an epoch, so validation "
                    f"would never run. Lower it, or set check_val_every_n_epoch=None to count batches across epochs."
                )
            self.validation_every = interval
        elif interval < 1.0:
            if source.stop is None:
                raise InvalidOption(
                    "val_check_interval",
                    interval,
                    "1.0 or a number of batches (an int): the training loader does not tell its length, so a share is unknown",
                )
            self.validation_every = max(1, int(source.stop * interval))

    def samples_in_batch(self) -> int | None:
        return self.source.samples_in(self.index)

    def follow_accumulation_schedule(self) -> None:
        schedule = self.run.options.optimization.schedule
        if schedule:
            self.run.accumulate_grad_batches = next(
                batches for epoch, batches in reversed([(0, 1), *schedule.items()]) if epoch <= self.run.progress.epoch
            )


def is_skip(answer: Any) -> bool:
    """Whether a hook answered ``-1``: the rest of the epoch is to be skipped."""
    return isinstance(answer, int) and answer == -1
