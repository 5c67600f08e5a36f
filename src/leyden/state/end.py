"""When training ends: by its limits, or because that was wished."""

from __future__ import annotations

from leyden.state.course import Wish
from leyden.state.progress import Done
from leyden.state.run import Run


class End:
    """Asked by the loop between batches and between epochs."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.is_idle = False  # a whole epoch took no step, and nothing but steps would end the run

    def is_cut(self) -> bool:
        """Whether training ends here, in the middle of an epoch or not."""
        run, limits, progress = self.run, self.run.leyden_options.limits, self.run.leyden_fit.progress
        if limits.max_steps is not None and progress.step >= limits.max_steps:
            return True
        if limits.max_epochs is not None and progress.epoch >= limits.max_epochs:
            return True  # inside an epoch only where a resumed run has a lower limit
        return bool(run.leyden_fit.course.agreed & Wish.STOP) and self.may_stop()

    def may_stop(self) -> bool:
        """Whether a stop that was wished ends training here: neither ``min_epochs`` nor ``min_steps`` is in the way."""
        limits, progress = self.run.leyden_options.limits, self.run.leyden_fit.progress
        return self.is_idle or (progress.epoch >= limits.min_epochs and progress.step >= limits.min_steps)

    def is_raised(self) -> bool:
        """Whether a resumed run goes on from where a limit had ended it, inside an epoch or after one."""
        progress = self.run.leyden_fit.progress
        is_cut_inside = progress.batch > 0 and not progress.closed and progress.done >= Done.PLATEAUS
        return (is_cut_inside or progress.done >= Done.EPOCH_TOLD) and not self.is_cut()

    def is_here(self) -> bool:
        """Whether training is over, and the epoch in which that was is ended too."""
        return self.run.leyden_fit.progress.between_epochs and self.is_cut()

    def is_passed(self) -> bool:
        """Whether a resumed run had come further than its limits now allow."""
        limits, progress = self.run.leyden_options.limits, self.run.leyden_fit.progress
        return (limits.max_epochs is not None and progress.epoch >= limits.max_epochs and not progress.between_epochs) or (
            limits.max_steps is not None and progress.step > limits.max_steps
        )

    def why(self) -> str:
        """The reason for the end, in a sentence's part."""
        run, limits, progress = self.run, self.run.leyden_options.limits, self.run.leyden_fit.progress
        if limits.max_steps is not None and progress.step >= limits.max_steps:
            return f"{progress.step} steps are done, and max_steps={limits.max_steps}"
        epochs = progress.epoch + (Done.EPOCH_HOOKS <= progress.done <= Done.EPOCH_ROW and progress.closed)
        if limits.max_epochs is not None and epochs >= limits.max_epochs:
            return f"{epochs} epochs are done, and max_epochs={limits.max_epochs}"
        return (run.leyden_fit.course.reason or "it was asked to stop").rstrip(".")

    def has_trained(self) -> bool:
        """Whether no batch is to follow: at most callbacks are left to be told of the end."""
        limits, progress = self.run.leyden_options.limits, self.run.leyden_fit.progress
        if not Done.EPOCH_HOOKS <= progress.done <= Done.EPOCH_ROW:
            return self.is_here()
        return self.is_cut() or (limits.max_epochs is not None and progress.epoch + 1 >= limits.max_epochs)
