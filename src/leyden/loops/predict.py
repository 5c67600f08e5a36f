"""Prediction: every batch of every loader, its predictions kept or handed to callbacks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from leyden.data.gathered import in_turn
from leyden.data.source import Source
from leyden.loops.passes import Pass
from leyden.state.run import Run
from leyden.state.stage import PREDICT
from leyden.tree import tree_map


class PredictLoop:
    """Predicts once. Predictions that neither the caller (``keep``) nor a callback wants at the end are dropped on the way."""

    def __init__(self, run: Run, keep: bool) -> None:
        self.run, self.returns = run, keep
        self.keep = keep or any(getattr(each, "leyden_keeps_predictions", False) for each in run.callbacks)
        self.one_pass = Pass(run, PREDICT, self._take)
        run.leyden_predicted = [[] for _ in self.source.readers], [[] for _ in self.source.readers]

    @property
    def source(self) -> Source:
        """What is read; a hook may have it made anew before the first batch."""
        return self.run.leyden_loaders.eval[PREDICT.key]

    def run_epoch(self) -> list[list[Any]]:
        """Predictions of each loader, a list of what ``predict_step`` returned for each batch, on the CPU."""
        self.one_pass.go()
        mine = self.run.leyden_predicted[0]
        return in_turn(self.source, mine) if self.returns else mine

    def _take(self, outputs: Any) -> Any:
        if self.run.strategy.leyden_moves and outputs is not None:
            outputs = tree_map(outputs, Tensor, Tensor.cpu)  # all predictions together would fill the device
        if self.keep:
            predictions, indices = (each[self.one_pass.progress.loader] for each in self.run.leyden_predicted)
            predictions.append(outputs)
            indices += [] if self.source.batch_indices is None else [self.source.batch_indices]
        return outputs
