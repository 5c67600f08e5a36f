"""Where a resumed run begins: in the middle of a batch, after it, between epochs, or nowhere because it is over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol

from torch import Tensor

from leyden.callback import Callback
from leyden.hooks import Hooks
from leyden.loops.validations import Validations
from leyden.state.end import End
from leyden.state.fit_loaders import FitLoaders
from leyden.state.fit_state import Stepping
from leyden.state.parts import take_all
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.state.snapshot import callback_states
from leyden.tree import tree_map


class Resumable(Protocol):
    """The fit loop, as far as it is asked here."""

    run: Run
    hooks: Hooks
    end: End
    loaders: FitLoaders
    validation: Validations
    optimization: Stepping

    def close_epoch(self, at: int) -> None: ...

    def follow_batch(self) -> None: ...


class Resumption:
    """What is left of the batch and the epoch in which a run was cut; the fit loop does the rest as ever."""

    def __init__(self, loop: Resumable) -> None:
        self.loop = loop
        self.run = loop.run

    def has_nothing_left(self) -> bool:
        """Whether there is nothing to train, and nobody to be told of it. A raised limit lets the epoch that it cut go on."""
        run, fit, end = self.run, self.run.leyden_fit, self.loop.end
        progress = fit.progress
        if end.is_raised():
            progress.reopen()
            fit.history = [row for row in fit.history if row["epoch"] != progress.epoch]
        passed = end.is_passed()
        if run.ckpt_path is not None and (passed or end.has_trained()):
            run.print(f"The run in {run.ckpt_path} is finished: {end.why()}.")
        if run.ckpt_path is None and (passed or end.is_here()):
            self.loop.loaders.load()  # how many batches there would be is asked of the trainer afterwards
        if passed:
            return True
        told_all = progress.done != Done.EPOCH_TOLD or self.loop.hooks.told_all(Callback.on_train_end, fit.told_names or [])
        return end.is_here() and told_all

    def end_batches(self) -> None:
        """No batch follows. Where the epoch is not over, keep how things stand, for a run with a higher limit."""
        fit, progress = self.run.leyden_fit, self.run.leyden_fit.progress
        if progress.done <= Done.PLATEAUS and not progress.closed and fit.inside is None:
            with suppress(Exception):  # what cannot be taken will say so when somebody saves
                whole = {**take_all(self.run), "callbacks": callback_states(self.run)}
                fit.inside = tree_map(whole, Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        progress.done = max(progress.done, Done.PLATEAUS)

    def tell_fit_end(self) -> None:
        """Tell those who have not heard of it. Of a run that ended before nobody hears again, unless it was trained further."""
        hooks, progress = self.loop.hooks, self.run.leyden_fit.progress
        hooks.heard = progress.cut_hook(self.run.leyden_fit.told_names)
        if progress.between_epochs:  # else a lower limit than the checkpoint's ends the fit in the middle of one
            progress.done = max(progress.done, Done.ENDED)
        if progress.done != Done.FIT_TOLD:
            hooks.emit(Callback.on_fit_end)
        if progress.done == Done.ENDED:
            progress.done = Done.FIT_TOLD

    def finish_batch(self) -> None:
        """Finish the batch that was counted, and what was to follow it; one that was not is left to :meth:`batches`."""
        run, loop, progress, flight = self.run, self.loop, self.run.leyden_fit.progress, self.run.leyden_fit.flight
        loop.optimization.take_up(run.leyden_fit.carried)
        if progress.in_batch:
            if progress.closed:
                loop.close_epoch(progress.done)
            return
        if progress.done == Done.STEP:
            loop.hooks.emit(Callback.on_train_batch_end, flight.outputs, flight.batch, flight.index)
            progress.done = Done.BATCH_TOLD
        if Done.ROW <= progress.done <= Done.TOLD:
            run.leyden_fit.validation_follows = loop.validation.is_due()
        if progress.done >= Done.BATCH_TOLD:
            loop.follow_batch()

    def batches(self) -> tuple[Iterator[tuple[Any, int, bool]], int]:
        """What is left of the epoch's batches, and the point at which the first of them was cut."""
        fit = self.run.leyden_fit
        progress, flight, carried, loaders = fit.progress, fit.flight, fit.carried, self.loop.loaders
        fit.carried = None
        at = int(progress.done) if progress.in_batch else int(Done.OPENED)
        if not progress.in_batch or carried is None or "batch" not in carried:
            return loaders.read(progress.epoch, progress.batch), at
        rest: Iterator[tuple[Any, int, bool]] = iter(())
        if not flight.is_last or loaders.source.stop is not None:
            rest = loaders.read(progress.epoch, progress.batch + 1)
        if loaders.source.stop is not None:
            flight.is_last = flight.index + 1 >= loaders.source.stop  # the limit may be another now, and the batch size
        return chain([(flight.batch, flight.index, flight.is_last)], rest), at
