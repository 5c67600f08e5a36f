"""What is said of steps where several optimizers step in a batch: ``global_step`` counts the batch."""

from __future__ import annotations

from typing import Any

from leyden.errors import PossibleUserWarning
from leyden.state.run import Run


class StepCounts:
    """Notes which optimizers step in a batch, until several did, and says then what goes by ``global_step`` in this run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.what = _what_counts(run)
        self._stepped: set[int] = set()

    def note(self, optimizer: Any) -> None:
        """It stepped in this batch."""
        self._stepped.add(id(optimizer))

    def tell(self) -> bool:
        """The batch is done: say how it was counted, where several stepped. Whether that was said."""
        several = len(self._stepped)
        self._stepped.clear()
        if several < 2:
            return False
        self.run.leyden_warn(
            f"{several} optimizers stepped in this batch, and global_step, {self.run.global_step} now, counts it as 1 step, and "
            f"not as {several}, as Lightning does. {self.what} counts such batches: multiply or divide by {several} to have the "
            f"same.",
            PossibleUserWarning,
        )
        return True


def step_counts(run: Run) -> StepCounts | None:
    """``None`` where there is one optimizer, or nothing goes by steps."""
    counts = StepCounts(run)
    return counts if len(run.leyden_fit.plan.optimizers) > 1 and counts.what else None


def _what_counts(run: Run) -> str:
    limit = run.leyden_options.limits.max_steps
    found = [] if limit is None else [f"max_steps={limit}"]
    every = [getattr(callback, "_every_n_train_steps", 0) for callback in run.callbacks]
    found += [f"every_n_train_steps={steps}" for steps in every if steps]
    found += ["a schedule with interval='step'" for plan in run.leyden_fit.plan.schedulers[:1] if plan.interval == "step"]
    return " and ".join(found)


def say_idle(run: Run) -> bool:
    """The first epoch took no step by hand: say so where nothing but steps would end training. It goes on: False."""
    limits = run.leyden_options.limits
    if run.current_epoch == 0 and limits.max_epochs is None and limits.max_time is None and limits.max_steps is not None:
        run.leyden_warn(
            f"No optimizer stepped in epoch 0, and max_steps={limits.max_steps} alone limits this run: without steps it never "
            f"ends. Call self.optimizers().step() in {type(run.lightning_module).__name__}.training_step, or set max_epochs."
        )
    return False
