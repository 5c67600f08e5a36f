"""Prediction: every batch of every loader, its predictions kept or handed to callbacks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leyden.loops.passes import Pass
from leyden.state.run import Run
from leyden.state.stage import PREDICT
from leyden.tree import tree_map


class PredictLoop:
    """Predicts once. ``keep`` says whether predictions are returned, or dropped once the callbacks have seen them."""

    def __init__(self, run: Run, keep: bool) -> None:
        self.run = run
        self.keep = keep
        self.one_pass = Pass(run, PREDICT, self._take)
        self.predictions: list[list[Any]] = [[] for _ in run.leyden_loaders.eval[PREDICT.key].readers]

    def run_epoch(self) -> list[list[Any]]:
        """Predictions of each loader, a list of what ``predict_step`` returned for each batch, on the CPU."""
        self.one_pass.go()
        return self.predictions

    def _take(self, outputs: Any) -> Any:
        if self.run.strategy.leyden_moves and outputs is not None:
            outputs = tree_map(outputs, Tensor, Tensor.cpu)  # all predictions together would fill the device
        if self.keep:
            self.predictions[self.one_pass.progress.loader].append(outputs)
        return outputs
