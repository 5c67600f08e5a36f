"""What stands in a checkpoint: a table of parts, each taken from a run and put back into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from leyden.callback import Callback
from leyden.checkpoint.collected import lists_of
from leyden.checkpoint.format import is_writable
from leyden.checkpoint.forms import usable
from leyden.checkpoint.loss_flow import flow_of
from leyden.checkpoint.optimizer_states import fitted
from leyden.checkpoint.places import marked, placed
from leyden.checkpoint.plain_names import named_parameters
from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.inspect.hints import hint_other_world
from leyden.loggers.base import keeps_place
from leyden.metrics.metric_objects import children_of, is_part, put_state, state_of
from leyden.state.end import End
from leyden.state.flight import detached
from leyden.state.generators import put_generators, take_generators
from leyden.state.making import put_made, take_made
from leyden.state.progress import NEXT_HOOK, Done
from leyden.state.run import Run

Scope = Literal["same", "own", "sharded"]


@dataclass(frozen=True)
class Part:
    """One thing that an exact continuation needs.

    ``scope`` says how it stands over processes: ``same`` on all alike, so that the first one's is kept; each its ``own``, kept
    for every process; or ``sharded``, pieces of one whole, which the strategy puts together.
    """

    name: str
    scope: Scope
    take: Callable[[Run], Any]
    put: Callable[[Run, Any], None]
    early: bool = False
    """Whether it is put back with the weights, before anything asks how far the run is; the others after ``on_fit_start``."""


# -- how far
def take_progress(run: Run) -> dict[str, Any]:
    """The counts, and who was told of the hook that runs."""
    fit = run.leyden_fit
    hooks, done, told = run.leyden_hooks, fit.progress.done, 0
    if hooks is not None and (is_telling(run) or done in (Done.FETCHED, Done.EVAL_FETCHED)):
        told = hooks.told
    optimization = fit.optimization
    if NEXT_HOOK.get(Done(done)) == "lr_scheduler_step" and optimization is not None and optimization.has_stepped_scheduler:
        told += 1
    return {**fit.progress.state_dict(), "told": told}


def is_telling(run: Run) -> bool:
    """Whether the hook that comes next is being told, or broke off in an error."""
    hooks, following = run.leyden_hooks, NEXT_HOOK.get(Done(run.leyden_fit.progress.done))
    return hooks is not None and following is not None and following in (hooks.where, hooks.broken)


def take_told(run: Run) -> list[str] | None:
    """Who was told of the hook that runs, by name: the run that goes on may have other callbacks."""
    following, done = NEXT_HOOK.get(Done(run.leyden_fit.progress.done)), run.leyden_fit.progress.done
    if run.leyden_hooks is None or not is_telling(run) or not hasattr(Callback, following or ""):
        return None
    return run.leyden_hooks.names_told(getattr(Callback, following or ""), done in (Done.ROW, Done.VALIDATED, Done.EPOCH_ROW))


def put_told(run: Run, names: Any) -> None:
    run.leyden_fit.told_names = names


def take_accumulation(run: Run) -> dict[str, Any]:
    return {"asked": run.leyden_asked_accumulation(), "now": run.accumulate_grad_batches}


def put_accumulation(run: Run, kept: Any) -> None:
    """What the command says counts; where it says what it said before, what a hook has made of it since."""
    run.leyden_follow_accumulation_schedule()
    if isinstance(kept, Mapping) and kept["asked"] == run.leyden_asked_accumulation():
        run.accumulate_grad_batches = kept["now"]


def put_history(run: Run, history: Any) -> None:
    run.leyden_fit.history = list(history)


# -- loggers
def take_positions(run: Run) -> list[dict[str, Any]]:
    return [logger.leyden_position() if keeps_place(logger) else {} for logger in run.loggers]


def put_positions(run: Run, positions: Any) -> None:
    run.leyden_fit.logged = positions  # once all of the checkpoint is put back


# -- random state, and where the data is
def take_random(run: Run) -> Any:
    """Training's; a validation that runs draws from its own."""
    return run.leyden_fit.random_outside or random_state()


def put_random(run: Run, state: Any) -> None:
    run.leyden_fit.random_state_to_restore = state  # once nothing else draws


def take_data(run: Run) -> dict[str, Any] | None:
    """Where training is in its data, in the epoch that was opened last."""
    source, progress = run.leyden_loaders.train, run.leyden_fit.progress
    if source is None:
        return None
    carried = progress.in_batch and not progress.closed and is_writable(run.leyden_fit.flight.batch)
    return source.state_dict(0, progress.batch + carried)


def take_own_random(run: Run) -> Any:
    """Training's; a validation that runs draws from its own."""
    return take_generators(run) if run.leyden_fit.generators_outside is None else run.leyden_fit.generators_outside


def put_own_random(run: Run, states: Any) -> None:
    run.leyden_fit.generators_to_restore = states  # again once nothing else draws
    put_generators(run, states)


# -- what state_dict() does not hold
def take_drift(run: Run) -> dict[str, Any] | None:
    drift, module = run.leyden_fit.drift, run.lightning_module
    return None if drift is None else {**drift.state_dict(module, run.leyden_modes.before), **drift.set_by_hooks(module)}


def put_drift(run: Run, state: Any) -> None:
    if state is not None and run.leyden_fit.drift is not None:
        run.leyden_fit.drift.load_state_dict(run.lightning_module, state)


# -- gradients
def take_gradients(run: Run) -> dict[str, Any]:
    """Gradients that wait for a step: a half-filled accumulation window, or whatever manual optimization left."""
    module, progress, unstepped = run.lightning_module, run.leyden_fit.progress, run.leyden_fit.unstepped
    if progress.window == 0 and not progress.in_batch and module.automatic_optimization and not unstepped:
        return {}
    stepping, found = run.leyden_fit.optimization, run.strategy.leyden_take_gradients(dict(named_parameters(module)))
    contributed, divisor = (0, 0) if stepping is None else (stepping.contributed, stepping.divisor)
    return {"contributed": contributed, "divisor": divisor, "unstepped": unstepped, **found}


def put_gradients(run: Run, state: Any) -> None:
    fit = run.leyden_fit
    if not state:
        return
    fit.unstepped = dict(state.get("unstepped", {}))
    if fit.optimization is not None:
        fit.optimization.contributed, fit.optimization.divisor = state["contributed"], state.get("divisor", 0)
    module, progress = run.lightning_module, fit.progress
    fills = progress.in_batch and progress.done >= Done.BACKWARD and progress.window + 1 >= fit.accumulation
    exchanged = fills or not module.automatic_optimization  # there each backward exchanges, and resets are the user's
    run.strategy.leyden_put_gradients(dict(named_parameters(module)), state, exchanged)


# -- metrics
def take_metric_objects(run: Run) -> dict[str, Any]:
    """The states of torchmetrics metrics inside the module: they are no part of its ``state_dict``."""
    children = children_of(run.lightning_module)
    return {name: run.leyden_metrics.set_aside(child) or state_of(child) for name, child in children.items() if is_part(child)}


def put_metric_objects(run: Run, found: Any) -> None:
    children = children_of(run.lightning_module)
    for name, kept in found.items():
        if name in children:
            put_state(children[name], kept)


# -- the batch that runs
def take_flight(run: Run) -> dict[str, Any] | None:
    """The batch that a loop is at, where there is more to do with it or somebody more to be told of it."""
    fit = run.leyden_fit
    progress, flight, hooks = fit.progress, fit.flight, run.leyden_hooks
    if hooks is None or not run.leyden_fitting:
        return None
    done = progress.done
    of_batch = progress.in_batch or Done.EVAL_FETCHED <= done <= Done.EVAL_STEP
    if not of_batch:
        if done == Done.STEP:
            waits = hooks.left(Callback.on_train_batch_end) > 0 or hooks.has_checkpoint_phase(Callback.on_train_batch_end)
        elif done in (Done.BATCH_TOLD, Done.ROW):
            waits = hooks.left(Callback.on_train_batch_end, checkpoint_phase=True) > 0
        else:
            waits = False
        if not waits:
            return None
    if progress.in_batch and progress.closed:
        return None
    again = "" if run.leyden_fit.optimization is None else run.leyden_fit.optimization.begun_anew
    if again and Done.STARTED <= done < Done.STEPPED and hooks.where is not None:
        run.leyden_warn(
            f"A checkpoint was saved inside {again}. A run that goes on from it calls training_step again, with what has changed "
            f"so far. Save at a batch's end instead."
        )
    kept: dict[str, Any] = {"index": flight.index, "is_last": flight.is_last}
    if is_writable(flight.batch):  # else it is read again
        kept["batch"] = marked(flight.batch, run.strategy.root_device)
    if not progress.in_batch:
        return {**kept, "outputs": marked(flight.outputs, run.strategy.root_device) if is_writable(flight.outputs) else None}
    if done >= Done.FORWARD:
        kept["outputs"] = marked(detached(flight.outputs), run.strategy.root_device)
        kept["single"] = isinstance(flight.outputs, Tensor)
    if Done.FORWARD <= done < Done.BACKWARD and flight.loss is not None:
        try:
            kept.update(value=flight.loss.detach(), flow=_flow(run, flight.loss))
        except RuntimeError:
            # the graph is gone: an override of `backward` saves after its own call, and the gradients are in
            fit.progress.done = Done.BACKWARD
    return kept


def _flow(run: Run, loss: Tensor) -> dict[str, Tensor]:
    """What backward would give, through the scaler where there is one: halves would lose what it is there to keep."""
    precision = run.strategy.precision
    if not precision.scales:
        return flow_of(loss, run.lightning_module)
    factor = float(precision.scale(torch.ones((), device=loss.device)))
    return {name: gradient / factor for name, gradient in flow_of(precision.scale(loss), run.lightning_module).items()}


def put_flight(run: Run, kept: Any) -> None:
    """Bring the batch back onto the device."""
    run.leyden_fit.carried = kept
    if kept is None:
        return
    flight, strategy = run.leyden_fit.flight, run.strategy
    if "batch" in kept:
        flight.batch = placed(kept["batch"], strategy.root_device)
    flight.index, flight.is_last = kept["index"], kept["is_last"]
    flight.outputs = placed(kept.get("outputs"), strategy.root_device)
    if kept.get("single"):
        flight.outputs = flight.outputs["loss"]


def take_evaluation(run: Run) -> dict[str, Any] | None:
    """Of a validation that runs: what the rest of it depends on, and training does not."""
    fit = run.leyden_fit
    if not fit.progress.validating:
        return None
    progress, source = fit.progress, run.leyden_loaders.eval.get("val")
    carried = Done.EVAL_FETCHED <= progress.done <= Done.EVAL_STEP and is_writable(fit.flight.batch)
    opened = source is not None and (progress.evaluated > 0 or Done.EVAL_FETCHED <= progress.done <= Done.EVAL_STEP)
    return {
        "random": random_state(),
        "generators": take_generators(run),
        "modes": run.leyden_modes.by_name(run.lightning_module),
        "attributes": marked(lists_of(run.lightning_module), run.strategy.root_device),
        "data": None if source is None or not opened else source.state_dict(progress.loader, progress.evaluated + carried),
        "carried": carried,
    }


def put_evaluation(run: Run, state: Any) -> None:
    run.leyden_fit.evaluation_to_resume = state


def put_callbacks(run: Run, states: Any) -> None:
    """As they were before the end of an epoch that is not over: they hear of it again. Those that save know what is on disk."""
    for callback in run.callbacks if states else ():
        state = states.get(callback.state_key)
        if state and callback not in run.checkpoint_callbacks:
            callback.load_state_dict(fitted(dict(state), callback.state_dict, type(callback).__name__, []))


def put_inside(run: Run, parts: Any) -> None:
    run.leyden_fit.inside = parts


PARTS = (
    Part("flight", "own", take_flight, put_flight),  # first: it may find that more is done than the loop knows
    Part("progress", "same", take_progress, lambda run, state: run.leyden_fit.progress.load_state_dict(state), early=True),
    Part("made", "own", take_made, put_made, early=True),
    Part("told", "same", take_told, put_told),
    Part("accumulate", "same", take_accumulation, put_accumulation),
    Part("history", "same", lambda run: run.leyden_fit.history, put_history),
    Part("loggers", "same", take_positions, put_positions),
    Part("reader", "own", lambda run: run.strategy.leyden_peers.rank, lambda run, rank: None),  # whose values are whose
    Part("random", "own", take_random, put_random),
    Part("data", "own", take_data, lambda run, cut: run.leyden_loaders.restore(cut)),
    Part("generators", "own", take_own_random, put_own_random),
    Part(
        "samplers", "own", lambda run: run.leyden_loaders.carried, lambda run, states: run.leyden_loaders.restore_carried(states)
    ),
    Part(
        "metrics",
        "own",
        lambda run: marked(run.leyden_metrics.state_dict(), run.strategy.root_device),
        lambda run, state: run.leyden_metrics.load_state_dict(placed(state, run.strategy.root_device)),
    ),
    Part("metric_objects", "own", take_metric_objects, put_metric_objects),
    Part(
        "losses",
        "own",
        lambda run: marked(list(run.leyden_fit.losses.waiting), run.strategy.root_device),
        lambda run, losses: run.leyden_fit.losses.restore(placed(losses, run.strategy.root_device)),
    ),
    Part("drift", "own", take_drift, put_drift),
    Part("gradients", "own", take_gradients, put_gradients),
    Part(
        "exchange", "own", lambda run: run.strategy.leyden_exchange(), lambda run, it: run.strategy.leyden_put_exchange(it), True
    ),
    Part("evaluation", "own", take_evaluation, put_evaluation),
    Part("callbacks", "own", lambda run: None, put_callbacks),  # in `inside` alone
    Part("inside", "own", lambda run: run.leyden_fit.inside, put_inside),
)
"""Everything that an exact continuation needs besides weights, optimizers and callbacks. New state is a new row."""


def take_all(run: Run) -> dict[str, Any]:
    """Every part as it is now, by its name."""
    return {part.name: part.take(run) for part in PARTS}


def take_parts(run: Run) -> dict[str, Any]:
    """The parts of this run, those that are each process's own under ``processes``, by rank."""
    rest = run.leyden_fit.at_rest
    taken = take_all(run) if rest is None else rest
    return {**of_scope(taken, "same"), "processes": run.strategy.leyden_of_all(of_scope(taken, "own"), rest is not None)}


def rest(run: Run) -> None:
    """A fit is over: what is saved from now on holds the parts as they are."""
    run.leyden_fit.at_rest = take_all(run)
    run.strategy.leyden_leave(of_scope(run.leyden_fit.at_rest, "own"))


def of_scope(taken: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    return {part.name: taken[part.name] for part in PARTS if part.scope == scope}


def put_parts(run: Run, ours: Mapping[str, Any], early: bool) -> None:
    """Put back what :func:`take_parts` took: the early parts, or the others.

    Where a limit that ended training inside an epoch is higher now, they are as before that epoch's end, which is still to come.
    """
    kept = ours["processes"]
    own = run.strategy.leyden_own(kept)
    if not early:
        hint_other_world(run, len(kept))
    if not early and own.get("inside") and End(run).is_raised():
        ours = own = own["inside"]
    for part in PARTS:
        source = ours if part.scope == "same" else own
        if part.early is early and part.name in source:
            with usable(run.ckpt_path, part.name):
                part.put(run, source[part.name])


def put_random_state(run: Run) -> None:
    """Last of all, when nothing else will draw."""
    fit = run.leyden_fit
    if fit.random_state_to_restore is not None:
        set_random_state(fit.random_state_to_restore)
        fit.random_state_to_restore = None
    if fit.generators_to_restore is not None:
        put_generators(run, fit.generators_to_restore)
        fit.generators_to_restore = None
    if fit.drift is not None:
        fit.drift.enter_training(run.lightning_module, run.leyden_loaders.train)
