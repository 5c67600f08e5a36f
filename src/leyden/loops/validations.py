"""Validation inside a fit: before training as a sanity check, and after the batches at which it is due."""

from __future__ import annotations

from leyden.callback import Callback
from leyden.data.carried import unmoved
from leyden.data.generators import kept
from leyden.loops.evaluate import EvaluateLoop
from leyden.module import LightningModule
from leyden.state.course import Wish
from leyden.state.end import End
from leyden.state.fit_loaders import FitLoaders
from leyden.state.generators import undrawn
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.state.stage import VAL, RunningStage
from leyden.validation_schedule import ValidationSchedule


class Validations:
    """Runs them, and leaves training as it was: its random state, its metrics, its modes."""

    def __init__(self, run: Run, schedule: ValidationSchedule, loaders: FitLoaders, end: End) -> None:
        assert run.leyden_hooks is not None
        self.run, self.hooks, self.progress = run, run.leyden_hooks, run.leyden_fit.progress
        self.schedule, self.loaders, self.end = schedule, loaders, end
        self.loop = EvaluateLoop(run, VAL) if schedule.active else None
        self.run_epoch = run.profiler.leyden_around("run_validation", EvaluateLoop.run_epoch)

    def check_sanity(self) -> None:
        """A few validation batches before training, so that its mistakes show now. Leaves no trace."""
        run, progress, hooks = self.run, self.progress, self.hooks
        most = run.leyden_options.validation.sanity_batches
        if self.loop is not None and most != 0:
            with run.leyden_in_stage(RunningStage.SANITY_CHECKING), undrawn(run), run.leyden_aside():
                if progress.done == Done.NOTHING:
                    hooks.emit(Callback.on_sanity_check_start)
                    progress.done = Done.SANITY_TOLD
                if progress.done == Done.SANITY_TOLD or progress.validating:  # or it was cut in the middle, and goes on
                    if self.loaders.load_validation():
                        carried = run.leyden_loaders.eval[VAL.key].carried
                        with kept(run.leyden_loaders.generators[VAL.key]), unmoved(carried, records=True):
                            self.run_epoch(self.loop, most)
                    progress.done = Done.SANITY_RUN
                hooks.emit(Callback.on_sanity_check_end)
                run.leyden_metrics.forget(VAL.key)
        run.leyden_fit.evaluation_to_resume = None  # of a check in which the run was cut, and that is left out now
        progress.done = Done.CHECKED

    def is_due(self) -> bool:
        """Whether a validation follows the batch that ended. Asked once a batch: a clock starts anew when it says yes."""
        course = self.run.leyden_fit.course
        stopping = bool(course.agreed & Wish.STOP) and self.end.may_stop()
        return self.schedule.is_due(self.progress, self.progress.closed, stopping, course.talks.now_for(self.schedule.clock))

    def validate(self) -> None:
        """Validate in the middle of training. Training's random state is put back afterwards, so validation changes nothing."""
        run, fit, progress = self.run, self.run.leyden_fit, self.progress
        is_due = progress.validating or progress.done == Done.VALIDATING or fit.validation_follows
        if self.loop is None or not is_due:  # the run may have been cut inside one, and have none any more
            fit.evaluation_to_resume = None
            progress.done = Done.VALIDATION_TOLD
            return
        fit.validation_follows = False
        with undrawn(run), run.leyden_aside(), run.leyden_in_stage(RunningStage.VALIDATING):
            if progress.done < Done.VALIDATING:
                fit.losses.check()  # a validation with weights that are NaN already would be hours for nothing
                if progress.window == 0:  # else gradients wait, which nobody may free
                    self.hooks.call_module(LightningModule.on_validation_model_zero_grad)
                progress.done = Done.VALIDATING
            if self.loaders.load_validation():
                self.run_epoch(self.loop)
        progress.done = Done.VALIDATED
        run.leyden_metrics.leave("train")

    def tell_end(self) -> None:
        with self.run.leyden_in_stage(RunningStage.VALIDATING):
            self.hooks.emit_checkpoint_phase(Callback.on_validation_end)
        if not self.progress.closed:  # else the epoch's end follows
            self.run.leyden_fit.course.decide(self.progress.batches, at_once=True)  # what was decided by its values holds now
