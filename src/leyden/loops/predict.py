"""Prediction: every batch of every loader, its predictions kept or handed to callbacks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leyden.callback import Callback
from leyden.loops.evaluate import gradient_free
from leyden.loops.moving import Mover
from leyden.state.run import Run
from leyden.tree import tree_map


class PredictLoop:
    """Predicts once. ``keep`` says whether predictions are returned, or dropped once the callbacks have seen them."""

    def __init__(self, run: Run, keep: bool) -> None:
        assert run.hooks is not None
        self.run = run
        self.hooks = run.hooks
        self.keep = keep
        self.predict_step = run.ready_step("predict_step")
        self.move = Mover(run)
        self.predictions: list[list[Any]] = []

    def run_epoch(self) -> list[list[Any]]:
        """Predictions of each loader, a list of what ``predict_step`` returned for each batch, on the CPU."""
        run, hooks = self.run, self.hooks
        module = run.lightning_module
        source = run.loaders.eval["predict"]
        run.keep_modes()
        hooks.call("on_predict_model_eval", module.on_predict_model_eval)
        with gradient_free(run):
            hooks.emit(Callback.on_predict_start)
            hooks.emit(Callback.on_predict_epoch_start)
            for position in range(len(source.readers)):
                self.predictions.append([])
                self._read(source, position)
            hooks.emit(Callback.on_predict_epoch_end)
            hooks.emit(Callback.on_predict_end)
        hooks.call("on_predict_model_train", module.on_predict_model_train)
        run.forget_modes()
        return self.predictions

    def _read(self, source: Any, position: int) -> None:
        run, hooks, several = self.run, self.hooks, len(source.readers) > 1
        move = run.profiler.around("batch_to_device", self.move)
        index, is_last = 0, True
        for batch, index, is_last in run.profiler.along("predict_dataloader_next", source.read(reader=position)):
            if run.course.agreed:
                run.raise_if_signalled()
            run.is_last_batch = is_last
            if not self.move.idle:
                batch = move(batch, position)
            arguments = (batch, index, position) if several else (batch, index)
            hooks.emit(Callback.on_predict_batch_start, *arguments)
            outputs = self.predict_step(*arguments)
            if run.strategy.moves and outputs is not None:
                outputs = tree_map(outputs, Tensor, Tensor.cpu)
            hooks.emit(Callback.on_predict_batch_end, outputs, *arguments)
            if self.keep:
                self.predictions[position].append(outputs)
        if not is_last:
            source.report_short(position, index + 1)
