"""Validation and test: every batch of every loader, and the epoch's values at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain
from typing import Any

import torch

from leyden.callback import Callback
from leyden.loops.moving import Mover
from leyden.metrics.metrics import read_numbers
from leyden.state.progress import Done, Progress
from leyden.state.run import Run
from leyden.state.stage import RunningStage

STAGE_OF = {"val": RunningStage.VALIDATING, "test": RunningStage.TESTING}
HOOK_STAGE = {"val": "validation", "test": "test", "predict": "predict"}

# Looked up in every batch: plain numbers of this file cost less than an enum's members.
EVAL_OPENED, EVAL_FETCHED = int(Done.EVAL_OPENED), int(Done.EVAL_FETCHED)
EVAL_READ, EVAL_BATCH = int(Done.EVAL_READ), int(Done.EVAL_BATCH)
EVAL_STEP, EVAL_COUNTED, EVAL_CLOSED = int(Done.EVAL_STEP), int(Done.EVAL_COUNTED), int(Done.EVAL_CLOSED)


def gradient_free(run: Run) -> AbstractContextManager[Any]:
    """No gradients: inference mode, or ``no_grad`` where ``inference_mode=False`` was asked for."""
    return torch.inference_mode() if run.options.behaviour.inference_mode else torch.no_grad()


class EvaluateLoop:
    """Evaluates once per call of :meth:`run_epoch`.

    Inside a fit it goes on where ``run.progress`` says, when that is in the middle of a validation.
    """

    def __init__(self, run: Run, stage: str) -> None:
        assert run.hooks is not None
        self.run = run
        self.stage = stage
        self.hooks = run.hooks
        self.progress = run.progress if run.fitting else Progress()  # of a verb of its own, nothing is kept
        self.flight = run.flight
        word = HOOK_STAGE[stage]
        self.word = word
        self.step_name = f"{word}_step"
        self.evaluation_step: Callable[..., Any] = run.ready_step(self.step_name)
        self.move = Mover(run)
        self.rows_to_skip = 0  # which the run of an older version, cut in the middle of this validation, has written already
        self.on_start, self.on_end = getattr(Callback, f"on_{word}_start"), getattr(Callback, f"on_{word}_end")
        self.on_epoch_start = getattr(Callback, f"on_{word}_epoch_start")
        self.on_epoch_end = getattr(Callback, f"on_{word}_epoch_end")
        self.on_batch_start = getattr(Callback, f"on_{word}_batch_start")
        self.on_batch_end = getattr(Callback, f"on_{word}_batch_end")

    def run_epoch(self, most: int | None = None) -> list[dict[str, float]]:
        """Evaluate every loader, at most ``most`` batches of each; returns the metrics of each loader as numbers."""
        run, metrics, progress, hooks = self.run, self.run.metrics, self.progress, self.hooks
        source = run.loaders.eval[self.stage]
        source.measure()
        module = run.lightning_module
        at, resumed = progress.done, progress.validating
        self.rows_to_skip = (run.evaluation_cut or {}).get("rows_to_skip", 0)
        if not resumed:
            at = Done.EVAL
            run.keep_modes()
            hooks.call(f"on_{self.word}_model_eval", getattr(module, f"on_{self.word}_model_eval"))
            progress.loader = progress.evaluated = 0
            progress.done = Done.EVAL
        with gradient_free(run):
            if not metrics.reenter(self.stage):
                metrics.start_epoch(self.stage)
            for point, deed in (
                (Done.EVAL_STARTED, partial(self._tell, self.on_start)),
                (Done.EVAL_OPENED, partial(self._tell, self.on_epoch_start)),
                (Done.EVAL_CLOSED, partial(self._read_all, source, most, at)),
                (Done.EVAL_TOLD, partial(self._tell, self.on_epoch_end)),
                (Done.EVAL_ROW, partial(self._publish, len(source.readers))),
                (Done.EVAL_ENDED, partial(self._tell, self.on_end)),
            ):
                if at < point:
                    deed()
                    progress.done = point
            results = self._results(len(source.readers))
            metrics.end_epoch()
        hooks.call(f"on_{self.word}_model_train", getattr(module, f"on_{self.word}_model_train"))
        run.forget_modes()
        return results

    def _tell(self, hook: Any) -> None:
        self.hooks.emit(hook)

    def _read_all(self, source: Any, most: int | None, at: int) -> None:
        progress = self.progress
        for position in range(progress.loader, len(source.readers)):
            progress.loader = position
            self._read(source, position, most, at)
            at, progress.evaluated = EVAL_OPENED, 0
        self.run.metrics.end_batches()

    def _read(self, source: Any, position: int, most: int | None, at: int) -> None:
        run, metrics, several, hooks, progress = self.run, self.run.metrics, len(source.readers) > 1, self.hooks, self.progress
        flight = self.flight
        number = position if several else None
        count = source.readers[position].samples_in
        move = run.profiler.around("batch_to_device", self.move)
        moves = not self.move.idle
        inside_fit, course = run.fitting, run.course  # in a fit `is_last_batch` keeps speaking of training
        # what a validation has done between two training batches could not be told from what is still to come
        interruptible = not inside_fit or run.sanity_checking
        logs = bool(run.loggers) and not run.sanity_checking
        step = self.evaluation_step
        index, is_last = progress.evaluated - 1, True
        for batch, index, is_last in self._batches(source, position, most, at):
            if course.agreed and interruptible:
                run.raise_if_signalled()
            if not inside_fit:
                run.is_last_batch = is_last
            flight.index, flight.is_last = index, is_last
            if moves and at < EVAL_READ:
                progress.done = EVAL_FETCHED
                batch = move(batch, position)
            flight.batch = batch
            arguments = (batch, index, position) if several else (batch, index)
            metrics.at(batch, number, partial(count, index))
            if at < EVAL_BATCH:
                progress.done = EVAL_READ
                hooks.emit(self.on_batch_start, *arguments)
                progress.done = EVAL_BATCH
            if at < EVAL_STEP:
                outputs = step(*arguments)
                if isinstance(outputs, dict):
                    outputs = run.read_returned(self.step_name, self.stage, outputs)
                flight.outputs, progress.done = outputs, EVAL_STEP
            else:
                outputs = flight.outputs
            if at < EVAL_COUNTED:
                hooks.emit(self.on_batch_end, outputs, *arguments)
            progress.done, progress.evaluated = EVAL_COUNTED, index + 1
            if logs:
                row = metrics.step_row()
                if row:
                    self._log_row(row, metrics.evaluated + index)
            at = EVAL_OPENED
        metrics.end_loader(number, index + 1)
        if not is_last:
            source.report_short(position, index + 1)

    def _batches(self, source: Any, position: int, most: int | None, at: int) -> Iterator[tuple[Any, int, bool]]:
        """What is left of a loader's batches; the first of them may be one that was cut."""
        run, flight, start = self.run, self.flight, self.progress.evaluated
        cut, run.evaluation_cut = run.evaluation_cut, None
        first: list[tuple[Any, int, bool]] = []
        if cut is not None and "data" in cut:
            source.restore(cut["data"])
            if cut["carried"] and EVAL_FETCHED <= at < EVAL_COUNTED:
                first = [(flight.batch, flight.index, flight.is_last)]
        batches = source.read(run.current_epoch, start + len(first), reader=position, most=most)
        return run.profiler.along(f"{self.stage}_dataloader_next", chain(first, batches) if first else batches)

    def _log_row(self, row: dict[str, Any], step: int | None = None) -> None:
        """Send a row to the loggers."""
        if self.rows_to_skip:
            self.rows_to_skip -= 1
            return
        self.run.log_row(row, step)

    def _publish(self, loaders: int) -> None:
        """Write the epoch's values."""
        metrics = self.run.metrics
        metrics.close()
        if not self.run.sanity_checking:
            row = metrics.epoch_row()
            if row:
                self._log_row(row)

    def _results(self, loaders: int) -> list[dict[str, float]]:
        """The epoch's values as numbers, one dict a loader."""
        metrics = self.run.metrics
        common = metrics.epoch_results(None)
        results = []
        for position in range(loaders):
            mine = {**common, **metrics.epoch_results(position)} if loaders > 1 else common
            results.append(read_numbers(mine))
        return results
