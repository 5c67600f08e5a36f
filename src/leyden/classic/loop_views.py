"""The names under which libraries reach into a trainer's loops: small views of facts that others own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from leyden.checked import check_count
from leyden.state.run import Run


class FitLoopView:
    """``trainer.fit_loop``: how far training is and how far it will go. Its limits may be set.

    Where that happens after a fit, ``trainer.fit`` with the same module goes on from where it ended, with the same optimizers.
    """

    def __init__(self, run: Run) -> None:
        self.trainer = run

    @property
    def max_epochs(self) -> int | None:
        return self.trainer.max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int | None) -> None:
        limit = None if epochs in (None, -1) else check_count("max_epochs", epochs, 0, "a number of epochs, or -1 for no limit")
        self._limit(max_epochs=limit)

    @property
    def min_epochs(self) -> int:
        return self.trainer.min_epochs

    @min_epochs.setter
    def min_epochs(self, epochs: int | None) -> None:
        self._limit(min_epochs=0 if epochs is None else check_count("min_epochs", epochs, 0, "a number of epochs >= 0"))

    @property
    def max_steps(self) -> int:
        """Optimizer steps at which training ends; -1 for no limit."""
        return self.trainer.max_steps

    @max_steps.setter
    def max_steps(self, steps: int | None) -> None:
        limit = None if steps in (None, -1) else check_count("max_steps", steps, 0, "a number of steps, or -1 for no limit")
        self._limit(max_steps=limit)

    @property
    def min_steps(self) -> int:
        return self.trainer.min_steps

    @min_steps.setter
    def min_steps(self, steps: int | None) -> None:
        self._limit(min_steps=0 if steps is None else check_count("min_steps", steps, 0, "a number of steps >= 0"))

    @property
    def current_epoch(self) -> int:
        return self.trainer.current_epoch

    @property
    def global_step(self) -> int:
        return self.trainer.global_step

    @property
    def batch_idx(self) -> int:
        """The running batch of the epoch, or the last that ended."""
        progress = self.trainer.leyden_fit.progress
        if not self.trainer.training and progress.batch == 0 and progress.batches and self.max_batches != float("inf"):
            return int(self.max_batches) - 1  # between epochs, the last one's
        return max(0, progress.batch - (0 if self.trainer.training else 1))

    @property
    def total_batch_idx(self) -> int:
        """The newest batch that ended, counted from 0 over all epochs; -1 before the first."""
        return self.trainer.leyden_fit.progress.batches - 1

    @property
    def max_batches(self) -> int | float:
        """Batches of an epoch, limits included; infinity where unknown."""
        return self.trainer.num_training_batches

    @property
    def is_last_batch(self) -> bool:
        return self.trainer.is_last_batch

    @property
    def epoch_loop(self) -> FitLoopView:
        """The same facts under the name of the loop over batches."""
        return self

    @property
    def val_loop(self) -> EvaluationLoopView:
        """Validation inside fit."""
        return EvaluationLoopView(self.trainer, "val")

    def _limit(self, **limits: Any) -> None:
        options = self.trainer.leyden_options
        limits["epochs_by_default"] = False
        self.trainer.leyden_options = replace(options, limits=replace(options.limits, **limits))
        self.trainer.leyden_goes_on = not self.trainer.training


class EvaluationLoopView:
    """``trainer.validate_loop``, ``test_loop`` and ``predict_loop``: what they read."""

    def __init__(self, run: Run, stage: str) -> None:
        self.trainer = run
        self.stage = stage

    @property
    def max_batches(self) -> list[int | float]:
        """Batches of each loader, limits included; infinity where unknown."""
        return self.trainer.leyden_loaders.num_eval_batches(self.stage)

    @property
    def num_dataloaders(self) -> int:
        return len(self.max_batches)

    @property
    def inference_mode(self) -> bool:
        return self.trainer.leyden_options.behaviour.inference_mode


class PredictLoopView(EvaluationLoopView):
    """``trainer.predict_loop``: what it reads, and what has been predicted so far, where that is kept."""

    @property
    def predictions(self) -> list[Any]:
        """What ``predict_step`` returned for each batch; with several loaders, a list of such lists."""
        predictions = self.trainer.leyden_predicted[0]
        return predictions[0] if len(predictions) == 1 else predictions

    @property
    def epoch_batch_indices(self) -> list[list[list[Any]]]:
        """For each loader, the indices of each batch's samples, where a prediction writer asks for them."""
        return self.trainer.leyden_predicted[1]

    @property
    def current_batch_indices(self) -> list[Any]:
        """The same of the batch in hand; empty where nobody knows them."""
        source = self.trainer.leyden_loaders.eval.get("predict")
        return [] if source is None else source.batch_indices or []
