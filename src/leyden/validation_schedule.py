"""When validation runs: after which batches, or after which time."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from leyden.errors import ConflictingOptions, InvalidOption
from leyden.options import Validation
from leyden.schedule import EveryDuration


class Counts(Protocol):
    """How far training is."""

    epoch: int
    batch: int
    """Batches done in the epoch."""
    batches: int
    """Batches done in all."""


def batches_between(options: Validation, stop: int | None) -> int | float | None:
    """Batches between validations, for epochs of ``stop`` batches: infinity where that is unknown; ``None`` by the clock."""
    interval = options.interval
    if isinstance(interval, timedelta):
        return None
    if isinstance(interval, int):
        return interval
    return float("inf") if stop is None else max(1, int(stop * interval))


class ValidationSchedule:
    """Reads ``val_check_interval`` and ``check_val_every_n_epoch`` for a training epoch of known or unknown length.

    Args:
        options: the Trainer's.
        active: whether there is anything to validate.
    """

    def __init__(self, options: Validation, active: bool) -> None:
        self.options = options
        self.active = active
        self.every: int | None = None  # batches; None: at the epoch's end
        self.clock: EveryDuration | None = None

    @property
    def is_share(self) -> bool:
        """Whether the interval is a share of an epoch, and so depends on its length."""
        return isinstance(self.options.interval, float)

    @property
    def watches_batches(self) -> bool:
        """Whether validation may be due after any batch."""
        return self.active and (self.every is not None or self.clock is not None)

    def read(self, stop: int | None, now: float) -> None:
        """Epochs have ``stop`` batches (``None``: unknown). Raises where that does not go with the interval."""
        interval = self.options.interval
        if isinstance(interval, timedelta):
            self.clock = self.clock or EveryDuration(interval.total_seconds())
            self.clock.start(now)
        elif isinstance(interval, int):
            if self.options.every_n_epochs is not None and stop is not None and interval > stop and self.active:
                raise ConflictingOptions(
                    f"val_check_interval={interval} is more than the {stop} training batches of an epoch, so validation "
                    f"would never run. Lower it, or set check_val_every_n_epoch=None to count batches across epochs."
                )
            self.every = interval
        elif interval < 1.0:
            if stop is None:
                raise InvalidOption(
                    "val_check_interval",
                    interval,
                    "1.0 or a number of batches (an int): the training loader does not tell its length, so a share is unknown",
                )
            self.every = int(batches_between(self.options, stop) or 0)

    def validates(self, epoch: int) -> bool:
        """Whether there may be a validation in this epoch."""
        every = self.options.every_n_epochs
        return every is None or (epoch + 1) % every == 0

    def is_due(self, progress: Counts, is_last: bool, is_cut: bool, now: float) -> bool:
        """Whether validation follows the batch that ended. ``is_cut``: training was stopped, and ends after it."""
        options = self.options
        if not self.active or not self.validates(progress.epoch):
            return False
        if self.clock is not None:
            return self.clock(now)
        if is_cut:
            return True
        if self.every is None:
            return is_last
        count = progress.batches if options.every_n_epochs is None else progress.batch
        return count % self.every == 0
