"""Validation and test: every batch of every loader, and the epoch's values at the end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch

from leyden.callback import Callback
from leyden.loops.moving import Mover
from leyden.state.metrics import read_numbers
from leyden.state.run import Run
from leyden.state.stage import RunningStage

STAGE_OF = {"val": RunningStage.VALIDATING, "test": RunningStage.TESTING}
HOOK_STAGE = {"val": "validation", "test": "test", "predict": "predict"}


def gradient_free(run: Run) -> AbstractContextManager[Any]:
    """No gradients: inference mode, or ``no_grad`` where ``inference_mode=False`` was asked for."""
    return torch.inference_mode() if run.options.behaviour.inference_mode else torch.no_grad()


class EvaluateLoop:
    """Evaluates once per call of :meth:`run_epoch`."""

    def __init__(self, run: Run, stage: str) -> None:
        assert run.hooks is not None
        self.run = run
        self.stage = stage
        self.hooks = run.hooks
        word = HOOK_STAGE[stage]
        self.word = word
        self.evaluation_step: Callable[..., Any] = run.profiler.around(
            f"[LightningModule]{type(run.lightning_module).__name__}.{word}_step", run.steps[f"{word}_step"]
        )
        self.move = Mover(run)
        self.rows = 0  # sent to the loggers in the evaluation that runs
        self.on_start, self.on_end = getattr(Callback, f"on_{word}_start"), getattr(Callback, f"on_{word}_end")
        self.on_epoch_start = getattr(Callback, f"on_{word}_epoch_start")
        self.on_epoch_end = getattr(Callback, f"on_{word}_epoch_end")
        self.on_batch_start = getattr(Callback, f"on_{word}_batch_start")
        self.on_batch_end = getattr(Callback, f"on_{word}_batch_end")

    def run_epoch(self, most: int | None = None) -> list[dict[str, float]]:
        """Evaluate every loader, at most ``most`` batches of each; returns the metrics of each loader as numbers."""
        run, metrics = self.run, self.run.metrics
        source = run.loaders.eval[self.stage]
        source.measure()
        module = run.lightning_module
        self.rows = 0
        run.keep_modes()
        self.hooks.call(f"on_{self.word}_model_eval", getattr(module, f"on_{self.word}_model_eval"))
        with gradient_free(run):
            metrics.start_epoch(self.stage)
            self.hooks.emit(self.on_start)
            self.hooks.emit(self.on_epoch_start)
            for position in range(len(source.readers)):
                self._read(source, position, most)
            metrics.end_batches()
            self.hooks.emit(self.on_epoch_end)
            results = self._publish(len(source.readers))
            self.hooks.emit(self.on_end)
            metrics.end_epoch()
        self.hooks.call(f"on_{self.word}_model_train", getattr(module, f"on_{self.word}_model_train"))
        run.forget_modes()
        return results

    def _read(self, source: Any, position: int, most: int | None) -> None:
        run, metrics, several = self.run, self.run.metrics, len(source.readers) > 1
        number = position if several else None
        count = source.readers[position].samples_in
        precision = run.strategy.precision
        move = run.profiler.around("batch_to_device", self.move)
        inside_fit = run.fitting  # there `is_last_batch` keeps speaking of training
        batches = run.profiler.along(f"{self.stage}_dataloader_next", source.read(reader=position, most=most))
        index, is_last = -1, True
        for batch, index, is_last in batches:
            if run.received_signal is not None:
                run.heed_signal()
            if not inside_fit:
                run.is_last_batch = is_last
            if not self.move.idle:
                batch = move(batch, position)
            arguments = (batch, index, position) if several else (batch, index)
            metrics.at(batch, number, partial(count, index))
            self.hooks.emit(self.on_batch_start, *arguments)
            self.hooks.where = f"{self.word}_step"
            if precision.has_forward_context:
                with precision.forward_context():
                    outputs = self.evaluation_step(*arguments)
            else:
                outputs = self.evaluation_step(*arguments)
            if isinstance(outputs, dict):
                outputs = run.read_mapping(self.stage, outputs)
            self.hooks.where = None
            self.hooks.emit(self.on_batch_end, outputs, *arguments)
            if run.loggers and not run.sanity_checking:
                row = metrics.step_row()
                if row:
                    self._log_row(row, metrics.evaluated + index)
        metrics.end_loader(number, index + 1)
        if not is_last:
            source.report_short(position, index + 1)

    def _log_row(self, row: dict[str, Any], step: int | None = None) -> None:
        """Send a row to the loggers, but for those that were written before the run was cut off in this validation."""
        run = self.run
        if run.fitting:
            self.rows += 1
            if self.rows <= run.progress.validation_rows:
                return
            run.progress.validation_rows = self.rows
        run.log_row(row, step)

    def _publish(self, loaders: int) -> list[dict[str, float]]:
        """Write the epoch's values and return them, one dict a loader."""
        metrics = self.run.metrics
        metrics.callback()
        if not self.run.sanity_checking:
            row = metrics.epoch_row()
            if row:
                self._log_row(row)
        common = metrics.epoch_results(None)
        results = []
        for position in range(loaders):
            mine = {**common, **metrics.epoch_results(position)} if loaders > 1 else common
            results.append(read_numbers(mine))
        return results
