"""One pass over a stage's loaders: every batch of each, with the stage's hooks and metrics, from wherever it was cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from typing import Any

import torch

from leyden.by_position import positional_room
from leyden.data.reachable import make_normal
from leyden.data.source import Source
from leyden.errors import InvalidReturn
from leyden.loops.transfer import BatchTransfer
from leyden.metrics.metrics import read_numbers
from leyden.state.progress import Done, Progress
from leyden.state.run import Run
from leyden.state.stage import PREDICT, Hook, Stage

# Looked up in every batch: plain numbers of this file cost less than an enum's members.
EVAL_OPENED, EVAL_FETCHED = int(Done.EVAL_OPENED), int(Done.EVAL_FETCHED)
EVAL_READ, EVAL_BATCH = int(Done.EVAL_READ), int(Done.EVAL_BATCH)
EVAL_STEP, EVAL_COUNTED = int(Done.EVAL_STEP), int(Done.EVAL_COUNTED)


def gradient_free(run: Run) -> AbstractContextManager[Any]:
    """No gradients: inference mode, or ``no_grad`` where ``inference_mode=False`` was asked for, and inside a fit."""
    infers = run.leyden_options.behaviour.inference_mode and not run.leyden_fitting  # what validation leaves may be trained with
    return torch.inference_mode() if infers and run.strategy.holds_whole_parameters else torch.no_grad()  # gathering keeps memory


class Pass:
    """Goes over the loaders once per call of :meth:`go`: ``take`` gets what the step returned, and says what hooks are told.

    Inside a fit it goes on where ``run.leyden_fit.progress`` says, when that is in the middle of a validation.
    """

    def __init__(self, run: Run, stage: Stage, take: Callable[[Any], Any]) -> None:
        assert run.leyden_hooks is not None
        self.run, self.stage, self.take, self.hooks, self.flight = run, stage, take, run.leyden_hooks, run.leyden_fit.flight
        self.progress = run.leyden_fit.progress if run.leyden_fitting else Progress()  # of a verb of its own, nothing is kept
        self.step = run.leyden_ready_step(stage.step.__name__)
        self.transfer = BatchTransfer(run)
        self._checked = False
        self.rows_to_skip = 0  # which the run of an older version, cut in the middle of this validation, has written already

    def go(self, most: int | None = None) -> list[dict[str, float]]:
        """At most ``most`` batches of each loader; returns what was logged, a dict of numbers for each loader."""
        run, metrics, progress, hooks = self.run, self.run.leyden_metrics, self.progress, self.hooks
        of_stage = self.stage.hooks
        assert of_stage.model_eval is not None
        assert of_stage.model_train is not None
        source = run.leyden_loaders.eval[self.stage.key]
        source.measure()  # a dataset may have grown since it was loaded
        if len(source.readers) == 1 and not self._checked:
            self._refuse_required_index()
        at = progress.done
        self.rows_to_skip = (run.leyden_fit.evaluation_cut or {}).get("rows_to_skip", 0)
        if not progress.validating:
            at = Done.EVAL
            # a module that goes on in the middle had them kept, and put back out of the checkpoint
            run.leyden_modes.keep(run.lightning_module)
            hooks.call_module(of_stage.model_eval)
            progress.loader = progress.evaluated = 0
            progress.done = Done.EVAL
        with gradient_free(run):
            if not metrics.reenter(self.stage.key):
                metrics.start_epoch(self.stage.key)
            for point, deed in (
                (Done.EVAL_STARTED, partial(self._tell, of_stage.start)),
                (Done.EVAL_OPENED, partial(self._tell, of_stage.epoch_start)),
                (Done.EVAL_CLOSED, partial(self._read_all, most, at)),
                (Done.EVAL_TOLD, partial(self._tell, of_stage.epoch_end)),
                (Done.EVAL_ROW, self._publish),
                (Done.EVAL_ENDED, partial(self._tell, of_stage.end)),
            ):
                if at < point:
                    deed()
                    progress.done = point
            # while metrics still have what they are computed from
            results = self._results(len(run.leyden_loaders.eval[self.stage.key].readers))
            metrics.end_epoch()
        if run.leyden_options.behaviour.inference_mode and not run.leyden_fitting:
            make_normal(run.lightning_module)  # what it made in a forward and kept may be trained with later
        hooks.call_module(of_stage.model_train)
        run.leyden_modes.forget()
        return results

    def _refuse_required_index(self) -> None:
        """One loader's number is not told to the module: a step or hook that requires it could not be called."""
        module, of_stage = self.run.lightning_module, self.stage.hooks
        for name, given in ((self.stage.step.__name__, 2), (of_stage.batch_start.__name__, 2), (of_stage.batch_end.__name__, 3)):
            if positional_room(self.run.leyden_steps.get(name) or getattr(module, name))[1] > given:
                raise InvalidReturn(
                    f"{type(module).__name__}.{name} requires the loader's number (dataloader_idx), and there is one loader to "
                    f"{self.stage.verb} with. Remove that argument, or write dataloader_idx=0."
                )
        self._checked = True

    def _tell(self, hook: Hook) -> None:
        self.hooks.emit(hook)

    def _read_all(self, most: int | None, at: int) -> None:
        progress, source = self.progress, self.run.leyden_loaders.eval[self.stage.key]  # a hook may have had it made anew
        for position in range(progress.loader, len(source.readers)):
            progress.loader = position
            self._read(source, position, most, at)
            at, progress.evaluated = EVAL_OPENED, 0
        self.run.leyden_metrics.end_batches()

    def _read(self, source: Source, position: int, most: int | None, at: int) -> None:
        run, metrics, hooks, progress, flight = self.run, self.run.leyden_metrics, self.hooks, self.progress, self.flight
        several, of_stage, step, take = len(source.readers) > 1, self.stage.hooks, self.step, self.take
        number = position if several else None
        count = source.readers[position].counter()
        move = run.profiler.leyden_around(f"[Strategy]{type(run.strategy).__name__}.batch_to_device", self.transfer)
        moves = not self.transfer.idle
        inside_fit, course = run.leyden_fitting, run.leyden_fit.course  # in a fit `is_last_batch` keeps speaking of training
        # what a validation has done between two training batches could not be told from what is still to come
        interruptible = not inside_fit or run.sanity_checking
        logs = bool(run.loggers) and not run.sanity_checking and self.stage is not PREDICT  # where nothing can be logged
        tells_start, tells_end = hooks.listens(of_stage.batch_start), hooks.listens(of_stage.batch_end)
        index, is_last = progress.evaluated - 1, True
        for batch, index, is_last in self._batches(source, position, most, at):
            if course.agreed and interruptible:
                run.leyden_raise_if_signalled()
            if not inside_fit:
                run.is_last_batch = is_last
            flight.index, flight.is_last = index, is_last
            if moves and at < EVAL_READ:
                progress.done = EVAL_FETCHED
                batch = move(batch, position)
            flight.batch = batch
            # the loader's number is told where there are several: Lightning's hooks take it as their last argument then
            arguments = (batch, index, position) if several else (batch, index)
            metrics.at(batch, number, partial(count, index, is_last))
            if at < EVAL_BATCH:
                if tells_start:
                    progress.done = EVAL_READ
                    hooks.emit(of_stage.batch_start, *arguments)
                progress.done = EVAL_BATCH
            if at < EVAL_STEP:
                flight.outputs = take(step(*arguments))
                progress.done = EVAL_STEP
            if tells_end and at < EVAL_COUNTED:
                hooks.emit(of_stage.batch_end, flight.outputs, *arguments)
            progress.done, progress.evaluated = EVAL_COUNTED, index + 1
            if logs:
                row = metrics.step_row()
                if row:
                    self._log_row(row, metrics.evaluated + index)
            at = EVAL_OPENED  # only the first batch can be one that was cut
        run.strategy.leyden_ended()
        metrics.end_loader(number, index + 1)  # also of a loader without a batch
        if not is_last:
            source.report_short(position, index + 1)

    def _batches(self, source: Source, position: int, most: int | None, at: int) -> Iterator[tuple[Any, int, bool]]:
        """What is left of a loader's batches; the first of them may be one that was cut."""
        run, flight, start = self.run, self.flight, self.progress.evaluated
        cut, run.leyden_fit.evaluation_cut = run.leyden_fit.evaluation_cut, None
        first: list[tuple[Any, int, bool]] = []
        if cut is not None and "data" in cut:
            source.restore(cut["data"])
            if cut["carried"] and EVAL_FETCHED <= at < EVAL_COUNTED:
                first = [(flight.batch, flight.index, flight.is_last)]
        epoch = 0 if self.stage is PREDICT else run.current_epoch  # predictions come in one order, whatever was trained before
        batches = source.read(epoch, start + len(first), reader=position, most=most)
        action = "[_PredictionLoop].predict_next" if self.stage is PREDICT else f"[_EvaluationLoop].{self.stage.key}_next"
        return run.profiler.leyden_along(action, chain(first, batches) if first else batches)

    def _log_row(self, row: dict[str, Any], step: int | None = None) -> None:
        """Send a row to the loggers."""
        if self.rows_to_skip:
            self.rows_to_skip -= 1
            return
        self.run.leyden_log_row(row, step)

    def _publish(self) -> None:
        """Write the epoch's values."""
        metrics = self.run.leyden_metrics
        metrics.close()
        if not self.run.sanity_checking and (row := metrics.epoch_row()):
            self._log_row(row)

    def _results(self, loaders: int) -> list[dict[str, float]]:
        """The epoch's values as numbers, one dict a loader."""
        metrics = self.run.leyden_metrics
        common = metrics.epoch_results(None)
        if loaders == 1:
            return [read_numbers(common)]
        return [read_numbers({**common, **metrics.epoch_results(position)}) for position in range(loaders)]
