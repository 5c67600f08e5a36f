"""A method of the user's, called by position with as many of the arguments as it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from leyden.errors import InvalidReturn


def fitted(method: Callable[..., Any], given: int) -> Callable[..., Any]:
    """``method``, cut to the number of positional arguments that it takes.

    Hooks may leave trailing arguments out (``dataloader_idx``, ``batch_idx``). Decorators that keep ``__wrapped__`` are
    followed. Raises :class:`InvalidReturn` when the method requires more than there is to give.
    """
    most, least = positional_room(method)
    if least > given:
        raise InvalidReturn(
            f"{_name(method)} requires {least} arguments, and the hook has {given} to give. "
            f"Its signature here is {_name(method)}{inspect.signature(method)}."
        )
    if most >= given:
        return method
    return partial(_call_cut, method, int(most))


def tell_stage(method: Callable[..., Any], stage: str) -> None:
    """Call ``setup`` or ``teardown`` with the stage, by whatever name it takes it, or without it."""
    parameters = inspect.signature(method).parameters
    if "stage" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        method(stage=stage)
    else:
        fitted(method, 1)(stage)


def _call_cut(method: Callable[..., Any], most: int, *args: Any) -> Any:
    return method(*args[:most])


def positional_room(method: Callable[..., Any]) -> tuple[float, int]:
    """How many positional arguments ``method`` takes at most, and how many it requires."""
    most: float = 0
    least = 0
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return float("inf"), 0
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = float("inf")
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            least += parameter.default is parameter.empty
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise InvalidReturn(
                f"{_name(method)} requires the keyword argument {parameter.name!r}, and hooks are called by position. "
                f"Give it a default, or take it by position."
            )
    return most, least


def _name(method: Callable[..., Any]) -> str:
    return getattr(method, "__qualname__", None) or repr(method)
