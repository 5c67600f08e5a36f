"""A trial run: training steps that leave no trace, for whoever wants to know before what comes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from leyden.errors import MissingMethod
from leyden.loops.optimize import optimization_of
from leyden.loops.transfer import BatchTransfer
from leyden.state.making import load_train
from leyden.state.run import Run
from leyden.state.stage import RunningStage
from leyden.tuner.aside import differentiable, untraced


class Trial:
    """What a trial offers while it lasts: batches of the training data, and steps with them."""

    def __init__(self, run: Run, steps: int | None) -> None:
        self.run = run
        self.steps = steps
        self.optimization = run.leyden_fit.optimization = optimization_of(run)
        self._transfer = BatchTransfer(run)

    @property
    def optimizers(self) -> list[Any]:
        """The optimizers, whose settings may be changed: they come back as they were."""
        return self.run.leyden_fit.plan.optimizers

    def batches(self) -> Iterator[Any]:
        """Batches of the training data from its beginning, over and over, ``steps`` of them in all."""
        run, taken = self.run, 0
        loaders = run.leyden_loaders
        if not loaders.exists("train"):
            raise MissingMethod("There is nothing to train on: pass train_dataloaders=, or give the module a `train_dataloader`.")
        source = loaders.train or load_train(run)
        while self.steps is None or taken < self.steps:
            for batch, _, _ in source.read(0):
                if self.steps is not None and taken >= self.steps:
                    return
                yield batch
                taken += 1

    def step(self, batch: Any, index: int | None = None, is_last: bool = False) -> Tensor | None:
        """One training step, with its hooks of the module, precision, accumulation and clipping; returns the loss, detached."""
        run = self.run
        fit = run.leyden_fit
        index = fit.progress.batch if index is None else index
        batch = self._transfer(batch)
        fit.flight.batch, fit.flight.index, fit.flight.is_last = batch, index, is_last
        run.leyden_metrics.at(batch, None, lambda: None)
        fit.losses.waiting.clear()
        self.optimization.step(batch, index, is_last)
        fit.progress.count_batch(is_last)
        return fit.losses.waiting[-1] if fit.losses.waiting else None


@contextmanager
def trying(run: Run, steps: int | None) -> Iterator[Trial]:
    """A trial in a run whose module is placed and whose optimizers are made. All of it is put back, however the trial ends.

    Callbacks and loggers hear nothing. What is put back: see :func:`~leyden.tuner.aside.untraced`.
    """
    with untraced(run) as aside, aside.fresh(), run.leyden_in_stage(RunningStage.TRAINING), differentiable():
        run.leyden_metrics.start_epoch("train")
        run.lightning_module.train()
        trial = Trial(run, steps)
        try:
            yield trial
        finally:
            trial.optimization.close()
