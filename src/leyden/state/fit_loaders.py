"""The loaders of a fit: loaded when they are needed, made anew when that was asked for, read from where a run was cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from leyden.data.source import Source
from leyden.errors import MissingMethod, warn_user
from leyden.metrics.batch_size import SampleCount
from leyden.state.making import load_train, load_validation
from leyden.state.run import Run
from leyden.state.stage import VAL
from leyden.validation_schedule import ValidationSchedule


class FitLoaders:
    """Training's loader and validation's."""

    def __init__(self, run: Run, schedule: ValidationSchedule) -> None:
        self.run = run
        self.schedule = schedule
        self.loaded_in = 0  # the epoch in which training's loader was made
        self.validation_loaded_in: int | None = None  # the same of validation's; None: a validation has yet to make its own
        self._said_none = False

    @property
    def source(self) -> Source:
        """What trains."""
        source = self.run.leyden_loaders.train
        if source is None:
            raise MissingMethod("There is no training loader yet: fit loads one before its first epoch.")
        return source

    def load(self) -> None:
        """Load training's loader, and read when validation is due; validation's too, where it is to be made but once."""
        run = self.run
        if run.leyden_loaders.train is None:
            load_train(run)
        if self.schedule.active and not run.leyden_options.behaviour.reload_every_n_epochs:
            self.load_validation()
        self._read_interval()

    def load_validation(self) -> bool:
        """Validation's loader, made now where there is none, or one that is too old; whether there is one."""
        run, loaders, epoch = self.run, self.run.leyden_loaders, self.run.leyden_fit.progress.epoch
        every, made = run.leyden_options.behaviour.reload_every_n_epochs, self.validation_loaded_in
        too_old = bool(every) and not run.sanity_checking and (made is None or epoch - made >= every)
        before = loaders.to_be_made.get(VAL.key)
        if before is not None and every and epoch - before["epoch"] >= every and not run.leyden_fit.progress.validating:
            loaders.forget_made(VAL.key)  # another is made now
        if VAL.key not in loaders.eval or too_old:
            resumed = made is None and epoch > 0
            load_validation(run)
            if every and not (run.sanity_checking and not self.schedule.validates(epoch)):
                self.validation_loaded_in = self._last_due(epoch, every) if resumed else epoch
        return VAL.key in loaders.eval

    def _last_due(self, epoch: int, every: int) -> int:
        """The newest epoch up to ``epoch`` in which a run that was never cut has made validation's loader."""
        made = None
        for number in filter(self.schedule.validates, range(epoch + 1)):
            made = number if made is None or number - made >= every else made
        return epoch if made is None else made

    def reload_if_due(self) -> None:
        """An epoch begins, or goes on: make its loader anew where ``reload_dataloaders_every_n_epochs`` says so."""
        run, epoch = self.run, self.run.leyden_fit.progress.epoch
        every, begins = run.leyden_options.behaviour.reload_every_n_epochs, run.leyden_fit.progress.batch == 0
        if begins and every and epoch % every == 0 and epoch != self.loaded_in:
            load_train(run)
            self._read_interval()
        elif begins and self.source.measure(begins=True) and self.schedule.is_share:
            self._read_interval()  # a share of another length

    def _read_interval(self) -> None:
        self.loaded_in = self.run.leyden_loaders.made.get("train", {}).get("epoch", self.run.leyden_fit.progress.epoch)
        self.schedule.read(self.source.stop, self.run.leyden_fit.course.talks.now)

    def read(self, epoch: int, start: int) -> Iterator[tuple[Any, int, bool]]:
        """An epoch's batches, from ``start``."""
        self.source.window = self._window
        return self.source.read(epoch, start)

    def _window(self) -> tuple[int, Callable[[], Any] | None]:
        """As :data:`~leyden.data.ends.Window`."""
        run = self.run
        automatic = run.lightning_module.automatic_optimization
        return run.accumulate_grad_batches, run.strategy.leyden_await_exchange if automatic else None

    def counter(self) -> Callable[[], SampleCount | None]:
        """How many samples the running batch has, where the loader knows: asked anew in each pass."""
        count, flight = self.source.readers[0].counter(), self.run.leyden_fit.flight
        return lambda: count(flight.index, flight.is_last)

    def report_short(self) -> None:
        """The loader ended before its own length, or a resumed epoch is to have no more batches than it had: say so."""
        source, progress = self.source, self.run.leyden_fit.progress
        if source.stop is not None and progress.batch >= source.stop:
            self.run.leyden_warn(
                f"Epoch {progress.epoch} had {progress.batch} batches when the run was cut, and is to have {source.stop} now: it "
                f"ends there."
            )
        elif source.length is not None:
            self.run.strategy.leyden_ended_early(progress.epoch, progress.batch)
            self.run.leyden_warn(
                f"{source.name} ended after {progress.batch} of the {source.stop} batches that it said it has (epoch "
                f"{progress.epoch}): the epoch ends there. Correct the length of its sampler or dataset if data is missing."
            )

    def report_none(self) -> None:
        """The loader gave None for a batch: say so, once."""
        if not self._said_none:
            self._said_none = True
            fit = self.run.leyden_fit
            where = "" if self.run.world_size == 1 else f" on process {self.run.global_rank}"
            warn_user(
                f"{self.source.name} yielded None for batch {fit.flight.index} of epoch {fit.progress.epoch}{where}. Such "
                f"batches are passed over: on_train_batch_start and training_step are not called for them."
            )

    def close(self) -> None:
        """Let go of the workers."""
        if self.run.leyden_loaders.train is not None:
            self.run.leyden_loaders.train.close()
