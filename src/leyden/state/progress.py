"""How far a fit is: what is finished, counted once, and the point that it has reached in what follows a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import IntEnum
from typing import Any


class Done(IntEnum):
    """What a fit has done, in the order in which it happens. A run that goes on from a checkpoint begins with what comes next.

    The hooks named are told between a point and the next; :attr:`Progress.told` says how many of their receivers were.
    """

    NOTHING = 0  # on_sanity_check_start
    SANITY_TOLD = 1  # the sanity check's validation: EVAL ...
    SANITY_RUN = 2  # on_sanity_check_end
    # -- an epoch
    CHECKED = 3  # on_train_epoch_start
    # -- a batch
    OPENED = 4  # it is read
    FETCHED = 5  # it is moved; `told` counts the transfer hooks that are done
    READ = 6  # on_train_batch_start
    STARTED = 7  # training_step
    FORWARD = 8  # on_before_zero_grad, where a window begins
    ZERO_TOLD = 9  # optimizer_zero_grad
    ZEROED = 10  # on_before_backward
    BACKWARD_TOLD = 11  # backward
    BACKWARD = 12  # on_after_backward
    ACCUMULATED = 13  # on_before_optimizer_step, where a window is full
    STEP_TOLD = 14  # clipping, and the optimizer's step
    OPTIMIZED = 15  # the step is counted
    STEPPED = 16  # schedulers; `told` counts them
    # -- what follows a batch
    STEP = 17  # on_train_batch_end; the batch is counted
    BATCH_TOLD = 18  # its row
    ROW = 19  # on_train_batch_end, of callbacks that save
    TOLD = 20  # on_validation_model_zero_grad, where a validation is due
    VALIDATING = 21  # on_validation_model_eval
    EVAL = 22  # on_validation_start
    EVAL_STARTED = 23  # on_validation_epoch_start
    EVAL_OPENED = 24  # a batch is read
    EVAL_FETCHED = 25  # it is moved
    EVAL_READ = 26  # on_validation_batch_start
    EVAL_BATCH = 27  # validation_step
    EVAL_STEP = 28  # on_validation_batch_end
    EVAL_COUNTED = 29  # its row; the batch is counted
    EVAL_CLOSED = 30  # on_validation_epoch_end; all batches are done
    EVAL_TOLD = 31  # the validation's row
    EVAL_ROW = 32  # on_validation_end
    EVAL_ENDED = 33  # the module goes back into its modes
    VALIDATED = 34  # on_validation_end, of callbacks that save
    VALIDATION_TOLD = 35  # schedulers that wait for a metric
    PLATEAUS = 36  # the next batch: OPENED. Or the epoch's end: on_train_epoch_end
    EPOCH_HOOKS = 37  # the epoch's row
    EPOCH_WRITTEN = 38  # schedulers that wait for a metric; `told` counts them
    EPOCH_ROW = 39  # on_train_epoch_end, of callbacks that save
    # -- the end
    EPOCH_TOLD = 40  # the epoch is counted: CHECKED. Or, where a limit ended training inside it: on_train_end
    ENDED = 41  # on_fit_end
    FIT_TOLD = 42  # nothing


TRANSFER = "batch transfer"
NEXT_HOOK: dict[Done, str] = {
    Done.NOTHING: "on_sanity_check_start",
    Done.SANITY_RUN: "on_sanity_check_end",
    Done.CHECKED: "on_train_epoch_start",
    Done.FETCHED: TRANSFER,
    Done.READ: "on_train_batch_start",
    Done.FORWARD: "on_before_zero_grad",
    Done.ZEROED: "on_before_backward",
    Done.BACKWARD: "on_after_backward",
    Done.ACCUMULATED: "on_before_optimizer_step",
    Done.STEPPED: "lr_scheduler_step",
    Done.STEP: "on_train_batch_end",
    Done.ROW: "on_train_batch_end",
    Done.EVAL: "on_validation_start",
    Done.EVAL_STARTED: "on_validation_epoch_start",
    Done.EVAL_FETCHED: TRANSFER,
    Done.EVAL_READ: "on_validation_batch_start",
    Done.EVAL_STEP: "on_validation_batch_end",
    Done.EVAL_CLOSED: "on_validation_epoch_end",
    Done.EVAL_ROW: "on_validation_end",
    Done.VALIDATED: "on_validation_end",
    Done.PLATEAUS: "on_train_epoch_end",
    Done.VALIDATION_TOLD: "lr_scheduler_step",
    Done.EPOCH_WRITTEN: "lr_scheduler_step",
    Done.EPOCH_ROW: "on_train_epoch_end",
    Done.EPOCH_TOLD: "on_train_end",
    Done.ENDED: "on_fit_end",
}
"""The hook that is told after a point, where one is; of a batch's transfer, three of them in turn."""


class Shown:
    """What is in no checkpoint."""

    __slots__ = ("ahead",)
    ahead: bool

    def __post_init__(self) -> None:
        self.ahead = False

    @contextmanager
    def shown_ahead(self, ahead: bool) -> Iterator[None]:
        """Whether, inside, the running epoch is over but for its end, and to be shown as the next one."""
        before, self.ahead = self.ahead, ahead
        try:
            yield
        finally:
            self.ahead = before


@dataclass(slots=True)
class Progress(Shown):
    """Counts of finished things. Everyone else derives from these."""

    epoch: int = 0  # finished epochs
    batch: int = 0  # finished batches of the running epoch
    step: int = 0  # optimizer steps of training, whatever the number of optimizers
    batches: int = 0  # finished training batches since the fit began
    window: int = 0  # batches whose gradients wait for the next step
    stepped_batches: int = 0  # batches that ended with a step: the loggers' x-axis
    closed: bool = False  # the running epoch's last batch is done, with its step and schedulers
    loader: int = 0  # the loader that the running validation reads
    evaluated: int = 0  # finished batches of that loader
    done: int = Done.NOTHING  # the newest point that was reached
    told: int = 0  # in a checkpoint: who was told already of the hook that comes next

    @property
    def number(self) -> int:
        """The running epoch's number; of an epoch that is over, also where a limit ended it inside, the next one's."""
        return self.epoch + (self.ahead or (self.done >= Done.EPOCH_TOLD and self.batch > 0))

    @property
    def epoch_ended(self) -> bool:
        """Whether everything of an epoch is done but telling the callbacks that save, and counting it."""
        return self.done >= Done.EPOCH_ROW or self.batch == 0

    @property
    def between_epochs(self) -> bool:
        """Whether no epoch runs."""
        return self.done <= Done.CHECKED or self.done >= Done.EPOCH_TOLD

    @property
    def in_batch(self) -> bool:
        """Whether a batch is being trained on."""
        return Done.FETCHED <= self.done < Done.STEP

    @property
    def validating(self) -> bool:
        """Whether a validation runs, or the sanity check's."""
        return Done.EVAL <= self.done <= Done.EVAL_ENDED

    @property
    def checking(self) -> bool:
        """Whether nothing but the sanity check has begun."""
        return self.batches == 0 and (self.done < Done.CHECKED or self.validating)

    def cut_hook(self, names: list[str] | None = None) -> tuple[str, int, list[str] | None] | None:
        """The hook of which some receivers were told before the run was cut, how many, and who."""
        told, self.told = self.told, 0
        return (NEXT_HOOK[Done(self.done)], told, names) if told and self.done in NEXT_HOOK else None

    def count_batch(self, is_last: bool) -> None:
        """A batch was trained on."""
        self.batch += 1
        self.batches += 1
        if self.window == 0:
            self.stepped_batches += 1
        if is_last:
            self.closed = True
        self.done = Done.STEP

    def start_next_epoch(self) -> None:
        """Count the running epoch as finished."""
        self.epoch += 1
        self.batch = 0
        self.window = 0
        self.closed = False
        self.done = Done.CHECKED

    def reopen(self) -> None:
        """A limit at which training ended has been raised: the next batch of the epoch that it cut, or the next epoch."""
        self.done, self.told = Done.PLATEAUS if self.batch else Done.CHECKED, 0

    def state_dict(self) -> dict[str, Any]:
        return {name: int(value) for name, value in asdict(self).items()} | {"closed": self.closed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        known = {field.name for field in fields(self)}
        for name, value in state.items():
            if name in known:
                setattr(self, name, value)
