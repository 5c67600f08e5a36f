"""One value that the user gave, checked: a count, a share, a switch, a duration. What is wrong with it is said by its name."""

from __future__ import annotations

import ast
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np

from leyden.errors import InvalidOption, InvalidType


def plain_number(given: Any) -> Any:
    """``given``, or where it is one of NumPy's numbers, the same number as Python's own."""
    return given.item() if isinstance(given, np.generic) else given


def check_path(name: str, given: Any) -> Any:
    """``given``, which is a path or an URL."""
    if not isinstance(given, str | os.PathLike):
        raise InvalidType(name, given, "a path or an URL")
    if not os.fspath(given) or "\0" in str(os.fspath(given)):
        raise InvalidOption(name, given, "a path or an URL")
    return given


def check_bool(name: str, given: object) -> bool:
    """``given`` as a bool; raises :class:`InvalidType` for anything that is not one."""
    given = plain_number(given)
    if isinstance(given, bool):
        return given
    if isinstance(given, int) and given in (0, 1):
        return bool(given)
    raise InvalidType(name, given, "True or False")


def bare_optimizer(given: Any) -> Any:
    """The optimizer itself: what ``self.optimizers()`` gives may be wrapped around it.

    Raises:
        InvalidType: ``given`` is none.
    """
    optimizer = getattr(given, "optimizer", given)
    if not hasattr(optimizer, "param_groups"):
        raise InvalidType("optimizer", given, "an optimizer, as self.optimizers() gives them")
    return optimizer


def check_function(name: str, given: Any, count: int, expected: str) -> Any:
    """``given``, a function that is called with ``count`` values one after another. One that tells no signature is let pass."""
    if not callable(given):
        raise InvalidType(name, given, expected)
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):
        return given
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        values = "one value" if count == 1 else f"{count} values"
        raise InvalidType(name, given, expected, f"It cannot be called with {values}: {error}.") from None
    return given


_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "True or False"),
    "str": ((str,), "a text"),
    "Path": ((str, os.PathLike), "a path"),
    "Callable": ((Callable,), "a function"),  # type: ignore[dict-item]  # isinstance takes it
    "Sequence": ((Iterable,), "a list"),
    "dict": ((Mapping,), "a dict"),
    "type": ((type,), "a class"),
    "timedelta": ((timedelta,), "a datetime.timedelta"),
}
"""What arguments of these annotations may be, alone or with None. Numbers are looked at one by one: each has its own bounds."""


def check_annotated(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Look at each argument that ``function`` annotates as one of these kinds; ``None`` is let pass.

    Raises:
        InvalidType: one is something else.
    """
    for name, kind, optional in _annotated(function):
        given = arguments.get(name)
        if given is None:
            continue  # where that is no value of the argument, it has always meant none: no switch, no prefix
        types, expected = _KINDS[kind]
        if not isinstance(given, types) and not (kind == "bool" and is_switch(given)):
            raise InvalidType(name, given, f"{expected}, or None" if optional else expected)


def is_switch(given: Any) -> bool:
    """Whether ``given``, which is no bool, says yes or no: 0, 1, and what NumPy has for a bool."""
    if getattr(given, "shape", None) == () and hasattr(given, "item"):
        given = given.item()
    return isinstance(given, int) and given in (0, 1)


@cache
def _annotated(function: Callable[..., Any]) -> list[tuple[str, str, bool]]:
    """The arguments of ``function`` that have such an annotation: name, kind, and whether None is among it."""
    found = []
    for name, annotation in getattr(function, "__annotations__", {}).items():
        parts = {_word(part) for part in (annotation.split("|") if isinstance(annotation, str) else _members(annotation))}
        optional = "None" in parts
        kind = "Path" if parts - {"None"} == {"str", "PathLike"} else "".join(parts - {"None"})
        if name != "return" and kind in _KINDS:
            found.append((name, kind, optional))
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _word(part: Any) -> str:
    part = get_origin(part) or part
    return (
        part.partition("[")[0].strip()
        if isinstance(part, str)
        else "None"
        if part is type(None)
        else getattr(part, "__name__", str(part))
    )


def check_count(name: str, given: object, least: int, expected: str) -> int:
    """``given`` as a whole number that is at least ``least``."""
    given = plain_number(given)
    if isinstance(given, bool) or not isinstance(given, int):
        if isinstance(given, float) and given.is_integer():
            given = int(given)
        else:
            raise InvalidType(name, given, expected)
    if given < least:
        raise InvalidOption(name, given, expected)
    return given


def check_text(name: str, given: object, expected: str, empty: bool = True) -> str | None:
    """``given`` as a text, or ``None``; ``empty`` says whether it may be empty."""
    if given is not None and not isinstance(given, str):
        raise InvalidType(name, given, expected)
    if given == "" and not empty:
        raise InvalidOption(name, given, expected)
    return given


def check_number(
    name: str, given: object, expected: str, least: float = -math.inf, above: bool = False, finite: bool = False
) -> int | float:
    """``given`` as a number, which is not NaN; one that a tensor or an array holds is taken out of it.

    It is at least ``least``, and with ``above`` not ``least`` itself; ``finite`` refuses infinity.
    """
    if hasattr(given, "item") and getattr(given, "ndim", None) == 0:
        given = given.item()
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidType(name, given, expected)
    if math.isnan(given) or given < least or (above and given == least) or (finite and math.isinf(given)):
        raise InvalidOption(name, given, expected)
    return given


def check_limit(name: str, given: object) -> int | float:
    """A share of the batches (a float from 0.0 to 1.0) or a number of them (an int)."""
    expected = "a whole number of batches (an int >= 0), or a share of them (a float from 0.0 to 1.0)"
    given = plain_number(given)
    if given is None:
        return 1.0
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise InvalidType(name, given, expected)
    if isinstance(given, int):
        if given < 0:
            raise InvalidOption(name, given, expected)
        return given
    if 0.0 <= given <= 1.0:
        return float(given)
    if given > 1.0 and given.is_integer():
        return int(given)
    raise InvalidOption(name, given, expected)


def limited(length: int | None, limit: int | float, name: str) -> int | None:
    """How many batches remain of ``length`` under ``limit``; ``None`` where the length is unknown and unlimited."""
    if isinstance(limit, int):
        return limit if length is None else min(length, limit)
    if limit == 1.0:
        return length
    if limit == 0.0:
        return 0
    if length is None:
        raise InvalidOption(
            name, limit, "a number of batches (an int): this loader does not tell its length, so a share of it is unknown"
        )
    share = int(length * limit)
    if share == 0:
        least = 1.0 / length
        raise InvalidOption(
            name, limit, f"0.0, or a share that leaves at least one of the {length} batches ({least:.3g} or more)"
        )
    return share


def read_duration(name: str, given: object) -> timedelta | None:
    """A duration from ``"DD:HH:MM:SS"``, a :class:`~datetime.timedelta` or a mapping of its keywords."""
    if given is None or isinstance(given, timedelta):
        return given
    expected = 'a duration: "DD:HH:MM:SS", a datetime.timedelta, or a dict such as {"hours": 2}'
    if isinstance(given, str):
        parts = given.split(":")
        if len(parts) != 4 or not all(part.strip().isdigit() for part in parts):
            raise InvalidOption(name, given, expected)
        days, hours, minutes, seconds = (int(part) for part in parts)
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if isinstance(given, Mapping) and given:
        try:
            return timedelta(**given)
        except TypeError as error:
            raise InvalidType(name, given, expected) from error
    raise InvalidType(name, given, expected)


def check_accumulation(name: str, given: Mapping[Any, Any]) -> dict[int, int]:
    """A schedule of accumulation: epochs (from 0) to numbers of batches, sorted."""
    if not given:
        raise InvalidOption(name, given, "at least one entry {epoch: batches}")
    checked = {}
    for epoch, batches in given.items():
        start = check_count(f"an epoch in {name}", epoch, 0, "an epoch, counted from 0")
        checked[start] = check_count(f"{name}[{epoch}]", batches, 1, "a number of batches >= 1")
    return dict(sorted(checked.items()))


def check_deterministic(given: object) -> bool:
    if isinstance(given, bool):
        return given
    raise (InvalidOption if isinstance(given, str) else InvalidType)("deterministic", given, 'True, False, "warn" or None')


def read_word(text: str) -> Any:
    """A word of the command line as what it says: a number, true or false, None, a list or dict, else text."""
    lowered = text.lower()
    words = {"true": True, "yes": True, "false": False, "no": False, "none": None}
    if lowered in words:
        return words[lowered]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    if text[:1] in ("[", "{"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text
