"""Aside: training and evaluation inside a verb that leave no trace, for those who try before what is to be done."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from leyden.callback import Callback
from leyden.checkpoint.modes import Modes
from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.carried import unmoved
from leyden.data.generators import generators_in, kept
from leyden.data.source import Source
from leyden.data.untouched import CONTAINERS, refill, untouched
from leyden.errors import ConflictingOptions
from leyden.hooks import Hooks
from leyden.loggers.base import DummyLogger
from leyden.loops.evaluate import EvaluateLoop
from leyden.loops.fit import FitLoop
from leyden.loops.predict import PredictLoop
from leyden.metrics.metrics import Metrics
from leyden.options import Options
from leyden.profilers.base import PassThroughProfiler
from leyden.state.course import Course
from leyden.state.generators import generators_of, undrawn
from leyden.state.loaders import Loaders
from leyden.state.optimizers import OptimizerPlan
from leyden.state.parts import put_metric_objects, take_metric_objects
from leyden.state.progress import Done
from leyden.state.run import Run
from leyden.state.stage import PREDICT, RunningStage, Stage

_HAVE_STATE = (Optimizer, LRScheduler, GradScaler)
_SWAPPED = (
    *("leyden_fit", "leyden_metrics", "leyden_hooks", "leyden_loaders", "leyden_options"),
    *("leyden_predicted", "_loggers", "callbacks", "profiler", "is_last_batch", "leyden_modes"),
)
"""What a run has others of meanwhile."""


class Aside:
    """What may be done while it lasts, as often as one likes: each time begins with a fit state and with metrics of its own.

    Weights and optimizers go on from one time to the next. Of the run's loaders, loggers and callbacks nobody hears of it.

    Args:
        run: a run whose module is placed and whose optimizers are made.
        anew: make loaders by their methods each time; else what the run has loaded already is read.
    """

    def __init__(self, run: Run, anew: bool) -> None:
        self.run = run
        self.anew = anew
        self.batches = 0
        """Training batches of the newest time."""
        self.source: Source | None = None
        """What was read that time."""

    def train(
        self, steps: int, *callbacks: Callback, plan: OptimizerPlan | None = None, limit: int | float | None = None
    ) -> None:
        """So many optimizer steps, with the module's own hooks and ``callbacks``, epoch after epoch.

        ``plan`` is used in place of the fit's optimizers and schedulers, ``limit`` in place of ``limit_train_batches``.
        """
        run = self.run
        options = run.leyden_options
        limits = replace(
            options.limits, max_epochs=None, min_epochs=0, min_steps=0, max_steps=run.leyden_fit.progress.step + steps
        )
        if limit is not None:
            limits = replace(limits, train=limit, overfit=0.0)
        options = replace(options, limits=limits, optimization=replace(options.optimization, check_finite=False))
        with self.fresh(callbacks, options, plan), run.leyden_in_stage(RunningStage.TRAINING), differentiable():
            assert run.leyden_hooks is not None
            loop = FitLoop(run, validates=False)
            try:
                loop.loaders.load()
                self.source = run.leyden_loaders.train
                run.leyden_metrics.open_epoch("train", resuming=False)
                run.leyden_hooks.emit(Callback.on_train_start)
                with loop.fit.course.talks.along(loop.fit.course, loop.progress):
                    while not loop.end.is_here():
                        loop.train_epoch()
                loop.progress.done = Done.EPOCH_TOLD
                run.leyden_hooks.emit(Callback.on_train_end)
            finally:
                self.batches = loop.progress.batches
                loop.optimization.close()
                for parameter in run.lightning_module.parameters():
                    parameter.grad = None

    def evaluate(self, stage: Stage, batches: int) -> None:
        """So many batches of each of the stage's loaders."""
        run = self.run
        limits: dict[str, Any] = {stage.key: batches}
        options = replace(run.leyden_options, limits=replace(run.leyden_options.limits, **limits))
        with self.fresh((), options), run.leyden_in_stage(stage.running):
            self.source = run.leyden_loaders.load_eval(stage, options.limits)
            loop = PredictLoop(run, keep=False) if stage is PREDICT else EvaluateLoop(run, stage)
            loop.one_pass.go()

    @contextmanager
    def fresh(
        self, callbacks: Iterable[Callback] = (), options: Options | None = None, plan: OptimizerPlan | None = None
    ) -> Iterator[None]:
        """The run is at the beginning of a fit of its own, which knows the epoch and the step of the fit around it."""
        run, module = self.run, self.run.lightning_module
        before = {name: vars(run)[name] for name in _SWAPPED}
        stage = run.state.stage
        outer, hooks, loaders = run.leyden_fit, run.leyden_hooks, self._loaders()
        fit = run.leyden_fresh_fit()
        fit.plan, fit.accumulation, fit.inside = plan or outer.plan, outer.accumulation, {}
        fit.progress.epoch, fit.progress.step, fit.progress.done = outer.progress.number, outer.progress.step, Done.CHECKED
        listeners = list(callbacks)
        vars(run).update(
            leyden_fit=fit,
            leyden_metrics=Metrics(),
            leyden_loaders=loaders,
            leyden_options=options or run.leyden_options,
            _loggers=[DummyLogger() for _ in run.loggers],
            callbacks=listeners,
            profiler=PassThroughProfiler(),
            leyden_modes=Modes(),
        )
        try:
            run.leyden_hooks = Hooks(run, listeners, module, None if hooks is None else hooks.instead)
            run.leyden_metrics.silent = before["leyden_metrics"].silent
            run.leyden_metrics.begin(run.leyden_hooks, module, run.strategy.processes)
            yield
        finally:
            vars(run).update(before)
            run.state.stage = stage
            for source in filter(None, (loaders.train, *loaders.eval.values())):
                _let_go(source)
            _hand_on(fit.course, outer.course)

    def _loaders(self) -> Loaders:
        outer = self.run.leyden_loaders
        loaders, origins = Loaders(outer.share), {}
        for key, origin in outer.origins.items():
            origins[key] = mine = copy.copy(origin)
            loaded = outer.train_given if key == "train" else outer.eval_given.get(key)
            mine.given = _with_own_workers(origin.given if self.anew or loaded is None else loaded)
        loaders.begin(origins)
        return loaders


def _with_own_workers(given: Any) -> Any:
    """The loaders, but for those that keep workers from pass to pass: copies, so that theirs are left where they are."""
    if type(given) in (list, tuple):
        return type(given)(map(_with_own_workers, given))
    if type(given) is dict:
        return {key: _with_own_workers(value) for key, value in given.items()}
    if isinstance(given, DataLoader) and given.persistent_workers:
        given = copy.copy(given)
        vars(given)["_iterator"] = None
    return given


def _let_go(source: Source) -> None:
    """Of workers; and what samplers and loaders carry from pass to pass is what it was."""
    source.close()
    for each in source.carried:
        each.load_state_dict({})


def _hand_on(inner: Course, outer: Course) -> None:
    """A signal that arrived meanwhile is the run's, whether it has been obeyed already or not."""
    if inner.signal is not None:
        outer.note_signal(inner.signal)
    outer.was_terminated = outer.was_terminated or inner.was_terminated
    outer.at_safe_place = outer.at_safe_place or inner.at_safe_place


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients are kept, wherever the verb is."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        yield


@contextmanager
def untraced(run: Run, anew: bool = False) -> Iterator[Aside]:
    """Whatever is done aside, all is put back bit for bit afterwards, also where something raises.

    Weights, buffers, gradients, modes, what requires gradients, the module's attributes and hyper-parameters; optimizers,
    schedulers, precision; the global generators, those of the module, of callbacks and of loaders, what samplers carry; metrics,
    and how far the fit is. Copies of what is on a device are kept in the machine's memory. ``anew`` as for :class:`Aside`.

    Raises:
        ConflictingOptions: called inside a training batch, whose backward still needs the weights.
    """
    where = run.leyden_hooks.where if run.leyden_hooks is not None and run.leyden_fitting else None
    if where is not None and Done.STARTED <= run.leyden_fit.progress.done < Done.BACKWARD:
        raise ConflictingOptions(
            f"A trial was asked for in {where}: its steps would change weights that the running batch's backward still needs. "
            f"Ask for it before a batch or after it."
        )
    module, plan, loaders = run.lightning_module, run.leyden_fit.plan, run.leyden_loaders
    hparams: Any = module.hparams
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    modes = {child: child.training for child in module.modules()}
    schedulers = [each.scheduler for each in plan.schedulers]
    parts = [*module.parameters(), *map(vars, (*plan.optimizers, *schedulers, run.strategy.precision))]
    held = list(_held([*parts, hparams if isinstance(hparams, dict) else vars(hparams)]))
    metrics = copy.deepcopy(take_metric_objects(run))
    with ExitStack() as stack:
        stack.callback(run.strategy.leyden_set_aside())
        stack.enter_context(preserved_random_state())
        for found in (*generators_of(run).values(), *(generators_in(origin.given) for origin in loaders.origins.values())):
            stack.enter_context(kept(found))
        for source in filter(None, (loaders.train, *loaders.eval.values())):
            stack.enter_context(unmoved(source.carried))
        stack.enter_context(as_frozen(module))
        stack.enter_context(untouched(module))
        try:
            for parameter in module.parameters():
                parameter.grad = None
            yield Aside(run, anew)
        finally:
            with torch.inference_mode(mode=False), torch.no_grad():
                for part, before in held:
                    if isinstance(part, Tensor):
                        part.copy_(before)
                    else:
                        refill(part, before)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for child, mode in modes.items():
                child.training = mode
            put_metric_objects(run, metrics)


@contextmanager
def unseen_by(outer: Run | None) -> Iterator[None]:
    """A verb that watches runs inside a hook of ``outer``'s: where that is training, it goes on as if nothing had been drawn."""
    with ExitStack() as stack:
        if outer is not None and outer.state.stage is RunningStage.TRAINING:
            stack.enter_context(undrawn(outer))
            stack.enter_context(preserved_random_state())
        yield


@contextmanager
def as_frozen(module: nn.Module) -> Iterator[None]:
    """What is frozen or thawed inside is so no longer: what requires gradients, and which batch norms keep statistics."""
    required = {parameter: parameter.requires_grad for parameter in module.parameters()}
    norms = {child: child.track_running_stats for child in module.modules() if hasattr(child, "track_running_stats")}
    try:
        yield
    finally:
        for parameter, before in required.items():
            parameter.requires_grad_(before)
        for norm, keeps in norms.items():
            norm.track_running_stats = keeps


def _held(roots: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Tensors and containers that are reached through containers and optimizers, each with a copy of what it holds."""
    seen: set[int] = set()
    queue = list(roots)
    for part in queue:
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            if not part.is_meta:
                yield part, part.detach().to("cpu", copy=True)
        elif type(part) in CONTAINERS or isinstance(part, dict):
            yield part, part.copy() if type(part) in CONTAINERS else dict(part)
            queue += part.values() if isinstance(part, dict) else part
        elif isinstance(part, tuple | frozenset):
            queue += part
        elif isinstance(part, _HAVE_STATE):
            queue.append(vars(part))
