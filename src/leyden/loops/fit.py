"""Training: epochs of batches, with validation when it is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from torch import Tensor

from leyden.callback import Callback
from leyden.inspect.hints import hint_before_training
from leyden.inspect.waiting import DataWait
from leyden.loops.optimize import optimization_of
from leyden.loops.outputs import is_skip
from leyden.loops.resumption import Resumption
from leyden.loops.transfer import BatchTransfer
from leyden.loops.validations import Validations
from leyden.schedule import EveryN
from leyden.state.course import Wish
from leyden.state.end import End
from leyden.state.fit_loaders import FitLoaders
from leyden.state.flight import detached
from leyden.state.parts import put_random_state, rest
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.state.stage import RunningStage
from leyden.validation_schedule import ValidationSchedule

# Looked up in every batch: plain numbers of this file cost less than an enum's members.
OPENED, FETCHED = int(Done.OPENED), int(Done.FETCHED)
READ, STARTED = int(Done.READ), int(Done.STARTED)
STEP, BATCH_TOLD = int(Done.STEP), int(Done.BATCH_TOLD)


class FitLoop:
    """Trains. What is finished is counted in ``run.leyden_fit.progress``; a resumed run goes on from there."""

    optimization = property(lambda loop: optimization_of(loop.run))  # a callback may put another in its place

    def __init__(self, run: Run, validates: bool) -> None:
        fit = run.leyden_fit
        assert run.leyden_hooks is not None
        self.run, self.fit, self.hooks, self.progress, self.flight = run, fit, run.leyden_hooks, fit.progress, fit.flight
        self.transfer = BatchTransfer(run)
        self.schedule = ValidationSchedule(run.leyden_options.validation, validates)
        optimization_of(run)  # what cannot be optimized is said now
        self.waiting = fit.waiting = DataWait(run.strategy.root_device, fit.progress)
        self.log_due = EveryN(run.leyden_options.watching.log_every_n_steps)
        self.has_checkpoint_phase = self.hooks.has_checkpoint_phase(Callback.on_train_batch_end)
        limit = run.leyden_options.limits.max_steps
        self.max_steps: float = float("inf") if limit is None else limit
        self.loaders = FitLoaders(run, self.schedule)
        self.end = End(run)
        self.validation = Validations(run, self.schedule, self.loaders, self.end)
        self.resumption = Resumption(self)
        self.after_batch = (  # what follows a batch, in this order; each does nothing where it is not due
            (Done.ROW, run.profiler.leyden_around("write_step_row", self.write_row)),
            (Done.TOLD, self.tell_checkpoint_phase),
            (Done.VALIDATED, self.validation.validate),
            (Done.VALIDATION_TOLD, self.validation.tell_end),
            (Done.PLATEAUS, lambda: self.optimization.step_plateaus("step")),
        )
        self.after_epoch = (
            (Done.EPOCH_HOOKS, partial(self.hooks.emit, Callback.on_train_epoch_end)),
            (Done.EPOCH_WRITTEN, run.profiler.leyden_around("write_epoch_row", self.write_epoch_row)),
            (Done.EPOCH_ROW, self.step_epoch_plateaus),
            (Done.EPOCH_TOLD, partial(self.hooks.emit_checkpoint_phase, Callback.on_train_epoch_end)),
        )

    # -- the story
    def run_fit(self, restore: Callable[[], None]) -> None:
        """Train; ``restore`` puts back what a checkpoint holds, once ``on_fit_start`` may have changed the optimizers."""
        run, progress, hooks = self.run, self.progress, self.hooks
        hooks.emit(Callback.on_fit_start)
        restore()  # after a hook that may add parameter groups, whose states the file holds
        if progress.checking:
            hooks.heard = progress.cut_hook(self.fit.told_names)
            self.validation.check_sanity()
        talking = self.fit.course.talks.along(self.fit.course, progress)
        with run.leyden_in_stage(RunningStage.TRAINING), run.leyden_saving_when_signalled(self.save_if_safe), talking:
            if run.leyden_options.limits.train == 0 or self.resumption.has_nothing_left():
                return self.resumption.tell_fit_end()
            self.loaders.load()  # after the sanity check, which needs validation's alone
            hint_before_training(run)
            train_epoch = run.profiler.leyden_around("run_training_epoch", self.train_epoch)
            run.leyden_metrics.open_epoch("train", progress.done > Done.CHECKED)
            with progress.shown_ahead(progress.closed and Done.PLATEAUS <= progress.done < Done.EPOCH_TOLD):
                hooks.emit(Callback.on_train_start)
            put_random_state(run)  # last: loaders and hooks may have drawn numbers until here
            hooks.heard = progress.cut_hook(self.fit.told_names)
            while not self.end.is_here():
                train_epoch()
            progress.done = Done.EPOCH_TOLD
            hooks.emit(Callback.on_train_end)
            self.resumption.tell_fit_end()

    def train_epoch(self) -> None:
        """One epoch, or what is left of it."""
        run, fit, hooks, progress = self.run, self.fit, self.hooks, self.progress
        self.logs = bool(run.loggers) or not fit.course.alone  # step values that are reduced over processes concern all of them
        self.loaders.reload_if_due()
        run.leyden_meet_callbacks()
        if progress.done <= Done.CHECKED:
            run.leyden_metrics.start_epoch("train")
            run.leyden_follow_accumulation_schedule()
            hooks.emit(Callback.on_train_epoch_start)
            progress.done = Done.OPENED
        else:
            run.leyden_metrics.enter("train")
            self.resumption.finish_batch()
        steps, whole = progress.step, progress.batch == 0
        if progress.done <= Done.PLATEAUS and not progress.closed and not self.end.is_cut():
            self.train_batches()
        if whole and progress.closed and progress.step == steps:
            self.end.is_idle = self.optimization.tell_idle_epoch()
        run.leyden_metrics.end_batches()
        fit.losses.check()
        fit.course.decide(progress.batches, at_once=True)  # an epoch's end is the same point on all processes
        fit.losses.raise_if_agreed()
        self.resumption.end_batches()
        self.go_through(self.after_epoch)
        fit.course.decide(progress.batches, at_once=True)  # a stop that was wished at the epoch's end is heeded there
        if progress.closed:
            run.leyden_metrics.end_epoch()
            progress.start_next_epoch()

    def train_batches(self) -> None:
        """The batches of an epoch."""
        run, hooks, progress, metrics, flight = self.run, self.hooks, self.progress, self.run.leyden_metrics, self.flight
        moves = not self.transfer.idle
        move = run.profiler.leyden_around(f"[Strategy]{type(run.strategy).__name__}.batch_to_device", self.transfer)
        step = run.profiler.leyden_around("run_training_batch", self.optimization.step)
        asks, tells = hooks.listens(Callback.on_train_batch_start), hooks.listens(Callback.on_train_batch_end)
        tells_any = tells or self.has_checkpoint_phase
        losses, course, capsule, waiting = self.fit.losses, self.fit.course, self.fit.losses.capsule, self.fit.losses.waiting
        due, is_last = self.next_due(), False
        metrics.start_batches(self.loaders.counter())
        batches, at = self.resumption.batches()
        batches = run.profiler.leyden_along("[_TrainingEpochLoop].train_dataloader_next", self.waiting.along(batches))
        for batch, index, is_last in batches:
            run.is_last_batch = is_last
            flight.index, flight.is_last = index, is_last
            if batch is None:
                self.loaders.report_none()
            elif moves and at < READ:
                progress.done = FETCHED
                batch = move(batch)
            flight.batch = batch
            metrics.batch, metrics.size = batch, None
            if asks and at < STARTED and batch is not None:
                progress.done = READ
                if any(map(is_skip, hooks.ask(Callback.on_train_batch_start, batch, index))):
                    course.wish(Wish.SKIP)
                    if course.talks.all_do_so(progress.batches, progress.epoch):  # else it has to be agreed on first
                        self.must_leave(Wish.SKIP)
                        return
            if capsule is not None and capsule.notes:
                capsule.note(batch, index, len(waiting))
            if at < STEP:
                progress.done = max(at, STARTED)
                try:
                    outputs = step(batch, index, is_last, at)
                except Exception as error:
                    losses.failed(error, "training_step")
                    raise
                progress.count_batch(is_last)  # before its hooks: what they save holds the batch
                if tells_any:
                    flight.outputs = {"loss": waiting[-1]} if waiting and type(outputs) is Tensor else detached(outputs)
                    if batch is None:
                        flight.outputs = None
            if tells and at < BATCH_TOLD:
                hooks.emit(Callback.on_train_batch_end, flight.outputs, batch, index)
            progress.done = BATCH_TOLD
            if is_last or progress.batches >= due or course.agreed:  # else nothing that follows a batch is due
                self.follow_batch()
                due = self.next_due()
                if course.agreed and self.must_leave():
                    return
            if progress.step >= self.max_steps and self.end.is_cut():
                return
            at = OPENED  # only the first batch can be one that was cut
        if not is_last and progress.batch:  # the loader ended before its own length, or a resumed epoch has a lower limit
            self.loaders.report_short()
            self.close_epoch()

    # -- what follows a batch
    def go_through(self, deeds: Iterable[tuple[Done, Callable[[], None]]]) -> None:
        """Do what is not done yet. A checkpoint that is taken inside a deed says so, and a resumed run begins with that one."""
        progress = self.progress
        for point, deed in deeds:
            if progress.done < point:
                deed()
                if progress.done < point:
                    progress.done = point

    def follow_batch(self) -> None:
        self.go_through(self.after_batch)

    def next_due(self) -> float:
        """The count of batches after which something follows a batch; 0 where that has to be asked after each."""
        fit, progress = self.fit, self.progress
        has_plateaus = any(plan.reduce_on_plateau for plan in fit.plan.schedulers)
        if self.schedule.watches_batches or self.has_checkpoint_phase or has_plateaus:
            return 0
        every = self.log_due.n if self.logs else 0
        row = progress.batches + every - progress.stepped_batches % every if every else float("inf")
        return min(fit.losses.due, fit.course.talks.due, row)

    def write_row(self) -> None:
        """The step's values go to the loggers; losses are looked at; wishes are exchanged."""
        run, fit, course, progress = self.run, self.fit, self.fit.course, self.progress
        course.decide(progress.batches)
        if self.logs and progress.window == 0 and (self.log_due(progress.stepped_batches) or course.agreed & Wish.STOP):
            run.leyden_log_row(run.leyden_metrics.step_row())
        if progress.batches >= fit.losses.due:
            fit.losses.check()
        fit.validation_follows = self.validation.is_due()

    def tell_checkpoint_phase(self) -> None:
        flight = self.flight
        self.hooks.emit_checkpoint_phase(Callback.on_train_batch_end, flight.outputs, flight.batch, flight.index)

    def must_leave(self, more: int = 0) -> bool:
        """Obey what was agreed on, and ``more``: whether the epoch's batches end here."""
        fit = self.fit
        self.run.leyden_raise_if_signalled()
        fit.losses.raise_if_agreed()
        if (fit.course.agreed | more) & Wish.SKIP:
            fit.course.withdraw(Wish.SKIP)
            self.skip_rest()
            return True
        return self.end.is_cut()

    # -- an epoch's end
    def close_epoch(self, at: int = OPENED) -> None:
        """No batch follows in this epoch, and the last one did not know it: do what was left to it."""
        run, progress = self.run, self.progress
        run.is_last_batch = progress.closed = True
        self.optimization.end_window(at)
        progress.done = Done.TOLD
        # an interval that counts batches has had its validation after the last of them
        self.fit.validation_follows = self.schedule.every is None and self.validation.is_due()
        self.follow_batch()

    def skip_rest(self) -> None:
        """A hook asked for the next epoch: nothing is validated in between."""
        self.run.is_last_batch = self.progress.closed = True
        self.optimization.end_window()
        self.progress.done = Done.PLATEAUS

    def write_epoch_row(self) -> None:
        """The epoch's values go to the loggers and into the history, and schedulers that wait for a metric get it."""
        run = self.run
        run.leyden_metrics.close()
        run.leyden_log_row(run.leyden_metrics.epoch_row())
        run.leyden_note_epoch()

    def step_epoch_plateaus(self) -> None:
        if self.progress.closed:
            self.optimization.step_plateaus("epoch")

    def save_if_safe(self) -> None:
        """A signal ends the run between two batches: keep all that was done."""
        if self.fit.course.at_safe_place and self.progress.batches:
            for writer in self.run.leyden_keepers[:1]:
                writer.save_now(self.run)

    def close(self) -> None:
        """Let go of what was hooked onto the optimizers, and of the loaders' workers."""
        with suppress(Exception):  # what cannot be taken will say so when somebody saves
            rest(self.run)
        self.optimization.close()
        self.loaders.close()
