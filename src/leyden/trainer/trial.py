"""A trial run: training steps that leave no trace, for whoever wants to know before what comes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from leyden.checkpoint.format import decode, encode
from leyden.checkpoint.optimizer_states import fitted, loadable, restore, scheduler_state
from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.source import Source
from leyden.errors import ConflictingOptions, MissingMethod
from leyden.hooks import Hooks
from leyden.loops.optimize import optimization_of
from leyden.loops.transfer import BatchTransfer
from leyden.metrics.metrics import Metrics
from leyden.state.generators import put_generators, take_generators
from leyden.state.making import load_train
from leyden.state.parts import put_metric_objects, take_metric_objects
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.state.stage import RunningStage


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
        if loaders.train is None:
            raise MissingMethod("There is nothing to train on: pass train_dataloaders=, or give the module a `train_dataloader`.")
        limits, name = run.leyden_options.limits, loaders.train.name
        # of its own: the run's keeps its place
        source = Source(
            loaders.train_given, name, limits.train, "limit_train_batches", training=True, in_order=bool(limits.overfit)
        )
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

    Callbacks and loggers hear nothing. Put back, bit for bit: weights, buffers, gradients, modes, optimizers, schedulers,
    precision, random states, the module's and the loaders' own generators, metrics, and how far the fit was.
    """
    module, plan, precision = run.lightning_module, run.leyden_fit.plan, run.strategy.precision
    where = run.leyden_hooks.where if run.leyden_hooks is not None and run.leyden_fitting else None
    if where is not None and Done.STARTED <= run.leyden_fit.progress.done < Done.BACKWARD:
        raise ConflictingOptions(
            f"trial_run() was called in {where}: its steps would change weights that the running batch's backward still needs. "
            f"Call it before a batch or after it."
        )
    if run.leyden_loaders.train is None and run.leyden_loaders.exists("train"):
        with preserved_random_state():  # what is made once is made now: its generators are among what is put back
            load_train(run)
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    modes = {child: child.training for child in module.modules()}
    # as in a file: what only pickle could write stays the object that it is
    optimizers = [copy.deepcopy(encode(optimizer.state_dict())) for optimizer in plan.optimizers]
    schedulers = [copy.deepcopy(encode(scheduler_state(each.scheduler))) for each in plan.schedulers]
    dtypes = {name: parameter.dtype for name, parameter in module.named_parameters()}
    scaling = copy.deepcopy(precision.state_dict())
    objects = copy.deepcopy(take_metric_objects(run))
    generators = take_generators(run)
    kept = run.leyden_fit, run.leyden_metrics, run.leyden_hooks, run.loggers, run.is_last_batch
    with preserved_random_state():
        run.leyden_fit, run.leyden_metrics, run.loggers = run.leyden_fresh_fit(), Metrics(), []
        run.leyden_fit.plan = plan
        try:
            run.leyden_hooks = Hooks(run, [], module)
            run.leyden_metrics.begin(run.leyden_hooks, module)
            for parameter in module.parameters():
                parameter.grad = None
            with run.leyden_in_stage(RunningStage.TRAINING), torch.inference_mode(mode=False), torch.enable_grad():
                run.leyden_metrics.start_epoch("train")
                module.train()
                trial = Trial(run, steps)
                try:
                    yield trial
                finally:
                    trial.optimization.close()
        finally:
            run.leyden_fit, run.leyden_metrics, run.leyden_hooks, run.loggers, run.is_last_batch = kept
            with torch.no_grad():
                for name, tensor in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
                    if name in weights:
                        tensor.copy_(weights[name])
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for child, mode in modes.items():
                child.training = mode
            for optimizer, state in zip(plan.optimizers, optimizers, strict=True):
                whole = fitted(decode(state), optimizer.state_dict, "", [])
                optimizer.load_state_dict(loadable(optimizer, whole))
                restore(optimizer, whole, dtypes, module)
            for each, state in zip(plan.schedulers, schedulers, strict=True):
                if hasattr(each.scheduler, "load_state_dict"):
                    each.scheduler.load_state_dict(fitted(decode(state), each.scheduler.state_dict, "", []))
            if scaling:
                precision.load_state_dict(scaling)
            put_metric_objects(run, objects)
            put_generators(run, generators)
