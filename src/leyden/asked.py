"""What of a trainer may be set: options of its constructor, checked like the constructor's, for the verbs to come; its stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, overload

from leyden.errors import LeydenWarning, warn_user
from leyden.options import Options

T = TypeVar("T")
Shown = Callable[[Any], Any]
Changes = dict[tuple[str, str], Any]
"""New values, by record and field."""


class Answers(Protocol):
    """A trainer, as far as its options are concerned."""

    leyden_options: Options
    _asked_meanwhile: dict[str, Changes]
    _verb_running: bool

    def _options_with(self, given: Mapping[str, Any]) -> Options: ...


class HasState(Protocol):
    """A trainer, as far as its stage is concerned."""

    state: Any


class Asked(Generic[T]):
    """``trainer.max_epochs = 3``: read off the option's record, and set in it.

    What is set while a verb runs counts from the next one, which is said.
    """

    def __init__(self, record: str, field: str, shown: Shown = lambda value: value) -> None:
        self.record, self.field, self.shown = record, field, shown
        self.name = field

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, run: None, owner: type) -> Asked[T]: ...
    @overload
    def __get__(self, run: Answers, owner: type) -> T: ...
    def __get__(self, run: Answers | None, owner: type) -> Any:
        if run is None:
            return self
        return self.shown(getattr(getattr(run.leyden_options, self.record), self.field))

    def __set__(self, run: Answers, value: Any) -> None:
        ask(run, self.name, self.record, self.field, value)


class ChosenPath:
    """``trainer.ckpt_path``: the checkpoint that the last verb took. What a user sets there counts until it is set anew."""

    def __get__(self, run: Any, owner: type) -> Any:
        return self if run is None else vars(run)["ckpt_path"]

    def __set__(self, run: Any, value: Any) -> None:
        if not vars(run).get("_verb_running", True):  # there, and in the constructor, it is the run that says what it took
            run.leyden_classic.assigned = value
            run.leyden_classic.resume_from = None
        vars(run)["ckpt_path"] = value


def in_stage(stage: Any) -> Any:
    """``trainer.training``: whether the trainer is in ``stage``. May be set: into it, or out of it."""

    def put(run: HasState, inside: bool) -> None:
        if inside or run.state.stage is stage:
            run.state.stage = stage if inside else None

    return property(lambda run: run.state.stage is stage, put)


def reads(read: Callable[[Any], Any], doc: str | None = None) -> Any:
    """What is read off a trainer, and cannot be set."""
    return property(read, doc=doc)


def callbacks_with(*attributes: str, doc: str) -> Any:
    """The callbacks of a kind: those that have one of ``attributes``."""
    return property(lambda run: [each for each in run.callbacks if any(hasattr(each, name) for name in attributes)], doc=doc)


def replaces_default(callback: Any) -> bool:
    """Whether ``callback`` saves a run, so that no ModelCheckpoint is added."""
    return bool(getattr(callback, "leyden_replaces_default", hasattr(callback, "best_model_path")))


def of_strategy(name: str) -> Any:
    """``trainer.world_size``: what the strategy says."""
    return property(lambda run: getattr(run.strategy, name))


def batches_of(key: str) -> Any:
    """``trainer.num_val_batches``: batches of each loader of that stage, limits included; infinity where unknown."""
    return property(lambda run: run.leyden_loaders.num_eval_batches(key))


def given_loaders(key: str) -> Any:
    """``trainer.val_dataloaders``: what was last given, or made, for that stage."""
    return property(lambda run: run.leyden_loaders.eval_given.get(key))


def none_without(count: int) -> int | None:
    """A lower limit as Lightning shows it: ``None`` where there is none."""
    return count or None


def minus_one_without(limit: int | None) -> int:
    """A limit as Lightning shows it: ``-1`` where there is none."""
    return -1 if limit is None else limit


def ask(run: Answers, name: str, record: str, field: str, value: Any) -> None:
    """Set the option ``name``, which stands in ``field`` of ``record``. Raises what the constructor would raise."""
    before = run._options_with({})
    after = run._options_with({name: value})
    changes = {
        (each.name, inner.name): getattr(getattr(after, each.name), inner.name)
        for each in fields(Options)
        if is_dataclass(getattr(after, each.name))
        for inner in fields(getattr(after, each.name))
        if (each.name, inner.name) == (record, field)  # and what follows from it: overfit_batches limits two loaders
        or getattr(getattr(after, each.name), inner.name) != getattr(getattr(before, each.name), inner.name)
    }
    run._asked_meanwhile.pop(name, None)
    if run._verb_running:
        run._asked_meanwhile[name] = changes
        warn_user(f"trainer.{name} = {value!r} was set while a verb runs: it counts from the next one.", LeydenWarning)
    else:
        _put(run, changes)


def take_asked(run: Answers) -> None:
    """A verb begins: what was asked while another ran counts now."""
    for changes in run._asked_meanwhile.values():
        _put(run, changes)
    run._asked_meanwhile.clear()


def _put(run: Answers, changes: Changes) -> None:
    for (record, field), value in changes.items():
        run.leyden_options = replace(
            run.leyden_options, **{record: replace(getattr(run.leyden_options, record), **{field: value})}
        )
