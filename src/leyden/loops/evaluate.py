"""Validation and test: what is logged in a pass over the stage's loaders, and the epoch's values at the end."""

from __future__ import annotations

from typing import Any

from leyden.loops.passes import Pass
from leyden.state.run import Run
from leyden.state.stage import Stage


class EvaluateLoop:
    """Evaluates once per call of :meth:`run_epoch`; in a fit that was cut in the middle of a validation, what is left of it."""

    def __init__(self, run: Run, stage: Stage) -> None:
        self.run = run
        self.stage = stage
        self.one_pass = Pass(run, stage, self._read_returned)

    def run_epoch(self, most: int | None = None) -> list[dict[str, float]]:
        """Evaluate every loader, at most ``most`` batches of each; returns the metrics of each loader as numbers."""
        return self.one_pass.go(most)

    def _read_returned(self, outputs: Any) -> Any:
        if isinstance(outputs, dict):
            return self.run.leyden_read_returned(self.stage.step.__name__, self.stage.key, outputs)
        return outputs
