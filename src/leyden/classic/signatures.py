"""Hooks whose arguments are another year's: each is called with what its author's version gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from leyden.by_position import fitted, positional_room
from leyden.callback import Callback
from leyden.classic.epoch_ends import EpochEnds
from leyden.errors import InvalidReturn
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.notices import notice
from leyden.older_calls import OPTIMIZERS_NUMBER
from leyden.state.optimizers import SteppingOptimizer
from leyden.state.run import Run
from leyden.state.stage import PREDICT, TEST, TRAIN, VAL

_ALIASES = {
    **dict.fromkeys(OPTIMIZERS_NUMBER, "optimizer_idx"),
    "results": "outputs",
    "loader_idx": "dataloader_idx",
    "dataloader_i": "dataloader_idx",
}


@dataclass(frozen=True)
class Order:
    """The arguments of a hook, today's and another year's."""

    today: tuple[str, ...]
    then: tuple[str, ...]

    def read(self, method: Callable[..., Any], before: tuple[str, ...] = ()) -> Reading | None:
        """What ``method`` takes where it takes another year's arguments; ``None`` where today's will do.

        ``before`` is what comes first in both years. A parameter whose name is known gets what its name says; the others stand
        for what was given at their place.
        """
        parameters = inspect.signature(method).parameters
        gone = set(self.then) - set(self.today)
        known = {*before, *self.today, *self.then}
        by_place = [each for each in parameters.values() if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
        by_name = {name: _ALIASES.get(name, name) for name, each in parameters.items() if each.kind is each.KEYWORD_ONLY}
        by_name = {name: meant for name, meant in by_name.items() if meant in gone}
        named = [_ALIASES.get(each.name, each.name) for each in by_place]
        required = sum(each.default is each.empty for each in by_place)
        mentioned = gone & {*named, *by_name.values()}
        if not mentioned and not by_name and required <= len(before) + len(self.today):
            return None
        order = (*before, *self.then)
        places = [mine if mine in known else order[i] if i < len(order) else None for i, mine in enumerate(named)]
        kept = [place for place in places if place is not None]
        if len(kept) < required:
            raise InvalidReturn(
                f"{method.__qualname__} requires {required} arguments, and no version gave as many: ({', '.join(order)}). Its "
                f"signature here is {method.__qualname__}{inspect.signature(method)}."
            )
        return Reading(tuple(kept), by_name)


@dataclass(frozen=True)
class Reading:
    """What a method takes: by place, and by name."""

    places: tuple[str, ...]
    names: Mapping[str, str]

    def mentions(self, name: str) -> bool:
        return name in self.places or name in self.names.values()

    def call(self, method: Callable[..., Any], values: Mapping[str, Any], **more: Any) -> Any:
        named = {name: values[meant] for name, meant in self.names.items()}
        return method(*[values[place] for place in self.places], **named, **more)


_EPOCH_END = Order((), ("outputs",))
_EVAL = {"start": ("batch", "batch_idx"), "end": ("outputs", "batch", "batch_idx")}
HOOKS: dict[str, Order] = {
    # hooks of callbacks and modules
    "on_train_batch_start": Order(_EVAL["start"], (*_EVAL["start"], "dataloader_idx")),
    "on_train_batch_end": Order(_EVAL["end"], (*_EVAL["end"], "dataloader_idx")),
    "on_before_optimizer_step": Order(("optimizer",), ("optimizer", "optimizer_idx")),
    **{f"on_{stage}_epoch_end": _EPOCH_END for stage in ("train", "validation", "test", "predict")},
}
_CALLBACKS = {
    # in a callback the loader's number may be required; a module that requires it asks for several loaders
    f"on_{stage}_batch_{when}": Order(given, (*given, "dataloader_idx"))
    for stage in ("validation", "test", "predict")
    for when, given in _EVAL.items()
}
STEPS: dict[str, Order] = {
    # what a module alone overrides
    "lr_scheduler_step": Order(("scheduler", "metric"), ("scheduler", "optimizer_idx", "metric")),
    "configure_gradient_clipping": Order(
        ("optimizer", "gradient_clip_val", "gradient_clip_algorithm"),
        ("optimizer", "optimizer_idx", "gradient_clip_val", "gradient_clip_algorithm"),
    ),
    "optimizer_zero_grad": Order(("epoch", "batch_idx", "optimizer"), ("epoch", "batch_idx", "optimizer", "optimizer_idx")),
}
_BEFORE = ("trainer", "pl_module")
_STAGE_OF = {f"on_{name}_epoch_end": stage.key for name, stage in
             (("train", TRAIN), ("validation", VAL), ("test", TEST), ("predict", PREDICT))}  # fmt: skip
STATES = "returned_states"  # in a checkpoint's part of ours


def hooks_as_then(run: Run, parts: Iterable[Any], collector: EpochEnds) -> dict[tuple[int, str], Callable[..., Any]]:
    """Hooks with another year's arguments: by owner and name, as they can be called today.

    ``collector`` is asked to keep the outputs of the stages whose epoch ends get them.
    """
    adapted: dict[tuple[int, str], Callable[..., Any]] = {}
    told: dict[str, int] = {}
    for part in parts:
        is_callback = isinstance(part, Callback)
        base, before = (Callback, _BEFORE) if is_callback else (LightningModule, ())
        for name, order in {**HOOKS, **(_CALLBACKS if is_callback else {})}.items():
            if not overrides(part, getattr(base, name)):
                continue
            method = getattr(part, name)
            reading = order.read(method, before)
            if reading is None or (_is_optional(method, "dataloader_idx") and not reading.names):
                continue
            gone = next(name for name in order.then if name not in order.today)
            if name in _CALLBACKS:
                today = (*before, *order.then)
            else:
                today = (*before, *order.today)
                notice(f"{name}(..., {gone})", f"{name} without {gone}")
            if gone == "outputs":
                collector.keep(_STAGE_OF[name])
            adapted[id(part), name] = _as_then(run, method, today, reading, collector.kept, _STAGE_OF.get(name, ""))
        if is_callback:
            number = told[part.state_key] = told.get(part.state_key, -1) + 1 if _keeps_state(part) else -1
            adapted.update(_state_hooks(part, f"{part.state_key}#{number}" if number else part.state_key))
    return adapted


def _is_optional(method: Callable[..., Any], name: str) -> bool:
    parameter = inspect.signature(method).parameters.get(name)
    return parameter is not None and parameter.default is not parameter.empty


def _as_then(
    run: Run,
    method: Callable[..., Any],
    today: Sequence[str],
    reading: Reading,
    kept: Callable[[str], Any],
    stage: str,
) -> Callable[..., Any]:
    numbered, listed = reading.mentions("optimizer_idx"), bool(stage) and reading.mentions("outputs")

    def told(*given: Any) -> Any:
        values = {"dataloader_idx": 0, **dict(zip(today, given, strict=False))}
        if numbered:
            values["optimizer_idx"] = number_of(run, values["optimizer"])
        if listed:
            values["outputs"] = kept(stage)
        return reading.call(method, values)

    return told


def number_of(run: Run, optimizer: Any) -> int:
    """The optimizer's number among those of the fit."""
    bare = getattr(optimizer, "optimizer", optimizer) if isinstance(optimizer, SteppingOptimizer) else optimizer
    return next((number for number, each in enumerate(run.leyden_fit.plan.optimizers) if each is bare), 0)


def steps_as_then(run: Run, module: LightningModule) -> dict[str, Callable[..., Any]]:
    """What only a module overrides, with another year's arguments, as it can be called today."""
    adapted: dict[str, Callable[..., Any]] = {}
    for name, order in STEPS.items():
        if not overrides(module, getattr(LightningModule, name)):
            continue
        method = getattr(module, name)
        reading = order.read(method)
        if reading is None:
            adapted[name] = fitted(method, len(order.today))
            continue
        notice(f"{name}(..., optimizer_idx)", f"{name} without optimizer_idx")
        adapted[name] = partial(_numbered, run, method, order.today, reading)
    return adapted


def _numbered(run: Run, method: Callable[..., Any], today: Sequence[str], reading: Reading, *given: Any) -> Any:
    values = dict(zip(today, given, strict=False))
    part = values.get("optimizer", values.get("scheduler"))
    values["optimizer_idx"] = number_of(run, getattr(part, "optimizer", part) if "scheduler" in values else part)
    return reading.call(method, values)


# -- the state that a callback returned from on_save_checkpoint, up to 1.7
def _keeps_state(callback: Callback) -> bool:
    return overrides(callback, Callback.on_save_checkpoint) or overrides(callback, Callback.on_load_checkpoint)


def _state_hooks(callback: Callback, key: str) -> dict[tuple[int, str], Callable[..., Any]]:
    hooks: dict[tuple[int, str], Callable[..., Any]] = {}
    if overrides(callback, Callback.on_save_checkpoint):
        hooks[id(callback), "on_save_checkpoint"] = partial(_save, fitted(callback.on_save_checkpoint, 3), key)
    if overrides(callback, Callback.on_load_checkpoint):
        load = callback.on_load_checkpoint
        room = positional_room(load)[0]
        parameters = list(inspect.signature(load).parameters)
        alone = room == 1  # on_load_checkpoint(callback_state), up to 1.2
        wants = alone or "callback_state" in parameters
        hooks[id(callback), "on_load_checkpoint"] = partial(_load, load, key, callback.state_key, alone, wants)
    return hooks


def _save(save: Callable[..., Any], key: str, trainer: Run, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    returned = save(trainer, module, checkpoint)
    if isinstance(returned, Mapping) and returned is not checkpoint:
        notice("a state returned by on_save_checkpoint", "state_dict and load_state_dict")
        checkpoint.setdefault("leyden", {}).setdefault(STATES, {})[key] = dict(returned)


def _load(
    load: Callable[..., Any],
    key: str,
    state_key: str,
    alone: bool,
    wants: bool,
    trainer: Run,
    module: LightningModule,
    checkpoint: dict[str, Any],
) -> None:
    state = (checkpoint.get("leyden") or {}).get(STATES, {}).get(key)
    if state is None and wants:
        state = (checkpoint.get("callbacks") or {}).get(state_key)
        if state is None:
            return  # it is told of a state only where there is one
    if alone:
        load(state)
    else:
        fitted(load, 3)(trainer, module, checkpoint if state is None else state)
