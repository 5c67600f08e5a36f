"""Names of 0.1.0 that users' classes may still bring: today's begin with our own name, so that nobody has one by accident."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from leyden.notices import notice
from leyden.spelling import arguments_of, unknown_argument

TODAY = {
    "place": "leyden_phase",
    "reads_epoch_metrics": "leyden_reads_epoch_metrics",
    "hears": "leyden_wants",
    "takes_tensors": "leyden_takes_tensors",
    "start": "leyden_start",
    "go_on": "leyden_go_on",
    "start_over": "leyden_start_over",
    "position": "leyden_position",
    "resume": "leyden_resume",
}
"""Former names of what callbacks and loggers may say, and today's."""
_PHASES = {"first": "first", "given": "given", "last": "checkpoint"}
_LOGGERS_METHODS = {"start": ("agree",), "go_on": ("position",), "resume": ("position",), "start_over": (), "position": ()}


class OlderName:
    """An attribute that reads another, of today's name, until somebody sets something of their own by the older one."""

    def __init__(self, today: str) -> None:
        self.today = today

    def __get__(self, part: Any, owner: type) -> Any:
        return self if part is None else getattr(part, self.today)


def adopt_callback(cls: type) -> None:
    """Let a callback's class say under today's names what it says under those of 0.1.0. Called once, when it is defined."""
    phase = _said(cls, "place")
    if isinstance(phase, str) and phase in _PHASES:
        _adopt(cls, "place", _PHASES[phase])
    reads = _said(cls, "reads_epoch_metrics")
    if isinstance(reads, bool):
        _adopt(cls, "reads_epoch_metrics", reads)
    wants = _said(cls, "hears")
    if _takes(wants, ("hook",)):
        _adopt(cls, "hears", wants)


def adopt_logger(cls: type) -> None:
    """The same of a logger's class."""
    takes = _said(cls, "takes_tensors")
    if isinstance(takes, bool):
        _adopt(cls, "takes_tensors", takes)
    said = {name: _said(cls, name) for name in _LOGGERS_METHODS}
    meant = [name for name, parameters in _LOGGERS_METHODS.items() if _takes(said[name], parameters)]
    # two of these words take no argument, and so could be anybody's: they count beside one that does
    if any(_LOGGERS_METHODS[name] for name in meant):
        for name in meant:
            _adopt(cls, name, said[name])


def _said(cls: type, former: str) -> Any:
    """What the class, or a base that is not ours, says under a former name; ``None`` where it says it under today's."""
    for owner in cls.__mro__:
        if TODAY[former] in vars(owner):
            return None
        if former in vars(owner):
            return vars(owner)[former]
    return None


def _adopt(cls: type, former: str, value: Any) -> None:
    setattr(cls, TODAY[former], value)
    for base in cls.__mro__:  # where super() looks for what was overridden
        if TODAY[former] in vars(base) and former not in vars(base):
            setattr(base, former, vars(base)[TODAY[former]])


def _takes(value: Any, parameters: tuple[str, ...]) -> bool:
    """Whether ``value`` is a method with just these parameters."""
    return inspect.isfunction(value) and tuple(inspect.signature(value).parameters)[1:] == parameters


_LOGS_ARGUMENTS = {
    "tbptt_reduce_fx": "no word: stretches of a batch are batches",
    "tbptt_pad_token": "no word: stretches of a batch are batches",
    "sync_dist_op": "reduce_fx",
}
"""Arguments of ``self.log`` in 1.x, and today's word."""


def check_older_arguments(who: str, given: Iterable[str], function: Callable[..., Any]) -> None:
    """Note the older arguments of ``self.log`` that were ``given``. Raises :class:`UnknownName` for one that it never had."""
    for name in given:
        if name not in _LOGS_ARGUMENTS:
            raise unknown_argument(f"self.{who}", name, arguments_of(function))
        notice(f"self.{who}({name}=...)", _LOGS_ARGUMENTS[name])
