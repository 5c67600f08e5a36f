"""Training losses: noted batch after batch, and looked at now and then to see whether they are finite."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from leyden.crash.capsule import KEPT, Capsule, Failing, Steps
from leyden.errors import NonFiniteLoss
from leyden.metrics.newest import stack_scalars
from leyden.options import Options
from leyden.state.course import Course, Wish


class Watched(Steps, Protocol):
    """A fit, as far as its losses are watched."""

    course: Course


class Training(Failing, Protocol):
    """The run whose losses are watched, as far as it is asked."""

    leyden_options: Options

    @property
    def leyden_fit(self) -> Watched: ...


class LossWatch:
    """The losses of a fit, and the crash capsule that goes with them."""

    def __init__(self, run: Training) -> None:
        self.run = run
        self.waiting: list[Tensor] = []  # detached, not checked yet
        self._from = 0  # the count of batches when the first of them was noted
        self._checked: Tensor | None = None
        self._bad: NonFiniteLoss | None = None  # seen here, and not yet heard of by all
        self.capsule: Capsule | None = None
        self.due = KEPT  # the count of batches at which they are checked

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a run is a run at rest: it has no step that could fail."""
        return {**self.__dict__, "capsule": None}

    def note(self, loss: Tensor) -> None:
        """Keep a loss until it is checked: a copy, where the next may be written over it, as by a CUDA graph or into a buffer."""
        self.waiting.append(loss.detach().clone() if loss.is_cuda or not loss.requires_grad else loss.detach())

    def open_capsule(self) -> None:
        """A fit begins: keep its newest steps, where that was asked for and there is a place to write them to."""
        asked = self.run.leyden_options.crash_capsule
        if asked:
            capsule = Capsule(self.run, weights=asked == "weights")
            self.capsule = capsule if capsule.has_place else None
        self.due = self.between_checks

    @property
    def latest(self) -> Tensor | None:
        """The newest training loss, on its device."""
        return self.waiting[-1] if self.waiting else self._checked

    @property
    def between_checks(self) -> int:
        """Steps after which losses are read to see whether they are finite."""
        return KEPT if self.capsule is None else self.capsule.between_checks

    def failed(self, error: Exception, step: str) -> None:
        """A step raised: write what a replay needs, once."""
        if self.capsule is not None:
            capsule, self.capsule = self.capsule, None
            capsule.write(error, step)

    def check(self) -> None:
        """Raise :class:`NonFiniteLoss` where a loss since the last check was NaN or infinite. Waits for the device."""
        losses = list(self.waiting)
        self.waiting.clear()
        batches = self.run.leyden_fit.progress.batches
        first, self._from = self._from, batches
        self.due = batches + self.between_checks
        if losses:
            self._checked = losses[-1]
        if losses and self.run.leyden_options.optimization.check_finite:
            values = stack_scalars(losses)
            if not bool(torch.isfinite(values).all()):
                self._refuse(values.tolist(), first, batches)
                return
        if self.capsule is not None:
            self.capsule.flush()

    def _refuse(self, shown: list[float], first: int, batches: int) -> None:
        run = self.run
        at = next(i for i, value in enumerate(shown) if value != value or value in (float("inf"), float("-inf")))
        before = ", ".join(f"{value:.6g}" for value in shown[max(0, at - 5) : at])
        batch = f"batch {first + at}"
        if len(shown) - (batches - first) not in (0, 1):  # some batches had no loss, or several
            batch = f"one of the batches {first} to {batches}"
        error = NonFiniteLoss(
            f"The training loss became {shown[at]} in training {batch} of this fit (counted from 0; epoch "
            f"{run.current_epoch}, step {run.global_step} when it was seen). Losses before it: {before or 'none'}. To try: a "
            f"lower learning rate, gradient_clip_val=1.0, detect_anomaly=True to find the operation, precision='32-true', a look "
            f"at the batch's data. Trainer(stop_on_nonfinite_loss=False) trains on regardless."
        )
        if self.capsule is not None:
            self.capsule.write(error, "training_step", at, shown[at], of=len(shown))
            self.capsule = None
        if run.leyden_fit.course.alone:
            raise error
        # the others have to leave at the same batch: it is raised when all have heard of it
        self._bad = error
        run.leyden_fit.course.wish(Wish.NOT_FINITE)

    def raise_if_agreed(self) -> None:
        """Among several processes: raise what one of them saw, on all."""
        if self.run.leyden_fit.course.agreed & Wish.NOT_FINITE:
            raise self._bad or NonFiniteLoss(
                "The training loss of another process became NaN or infinite: its own message says in which batch."
            )

    def restore(self, losses: list[Tensor]) -> None:
        """The losses that were not checked when a checkpoint was taken."""
        self.waiting[:] = losses
        self._from = self.run.leyden_fit.progress.batches - len(losses)
        self.due = self._from + self.between_checks
