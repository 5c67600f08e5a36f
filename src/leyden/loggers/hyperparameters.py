"""Hyper-parameters in whatever container they come, as dicts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from leyden.constructed import read_again
from leyden.errors import InvalidType
from leyden.notices import notice


def as_dict(params: Any) -> dict[str, Any]:
    """Hyper-parameters in whatever container, as a dict of their own."""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return dict(items_of(params))
    if isinstance(params, Namespace):
        return dict(vars(params))
    if is_dataclass(params) and not isinstance(params, type):
        return asdict(params)
    raise InvalidType("params", params, "a dict, a Namespace or a dataclass")


def opened(value: Any) -> Any:
    """A Namespace or a dataclass's instance as a dict, anything else as it is."""
    if isinstance(value, Namespace):
        return vars(value)
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def items_of(params: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """The items of ``params``. OmegaConf's that are still missing, which cannot be read, stand as they were written: ``???``."""
    raw = getattr(params, "_content", None) if type(params).__module__.startswith("omegaconf") else None
    if not isinstance(raw, Mapping):
        return params.items()
    return [(key, "???" if getattr(node, "_is_missing", bool)() else params[key]) for key, node in raw.items()]


def flat(
    params: Mapping[Any, Any], prefix: str = "", *, into_lists: bool = False, by: str = "/", around: tuple[Any, ...] = ()
) -> dict[str, Any]:
    """Nested hyper-parameters as one level, the names joined ``by``; with ``into_lists`` so also dicts that a list holds.

    One of the dicts ``around`` these that stands in them again is a value, and not gone into.
    """
    level: dict[str, Any] = {}
    around = (*around, params)
    for key, value in items_of(params):
        value = opened(value)
        if into_lists and isinstance(value, list) and all(isinstance(item, Mapping) for item in value) and value:
            value = dict(enumerate(value))
        if isinstance(value, Mapping) and value and not any(value is each for each in around):
            level.update(flat(value, f"{prefix}{key}{by}", into_lists=into_lists, by=by, around=around))
        else:
            level[f"{prefix}{key}"] = value
    return level


def called(value: Any) -> Any:
    """A hyper-parameter that is a class or a function as its name, anything else as it is. Nothing is called."""
    if isinstance(value, Tensor) or not callable(value):
        return value
    inner = getattr(value, "func", None)  # of a functools.partial
    name = getattr(value, "__name__", None) or getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(value).__name__


def flatten_dict(params: Mapping[Any, Any], delimiter: str = "/", parent_key: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a/b": 1}``, below ``parent_key`` where it is given."""
    return flat(params, f"{parent_key}{delimiter}" if parent_key else "", into_lists=True, by=delimiter)


def only_plain(params: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy in which whatever is no bool, number, string or tensor is its ``str``."""
    kept = (bool, int, float, str, Tensor)
    numbers = {name: value.item() if isinstance(value, np.generic) else value for name, value in params.items()}
    return {name: value if isinstance(value, kept) else str(value) for name, value in numbers.items()}


def without_aggregation(
    logger: object, base: type, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What ``base``'s constructor was given, without 1.x's two functions for several values of a name: here it has one a step."""
    names = ("agg_key_funcs", "agg_default_func")
    order = type(logger).__mro__
    behind = order[order.index(base) + 1 :]
    if len(args) <= len(names) and all("__init__" not in vars(each) for each in behind if each is not object):
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}  # nobody else is there to take them
        args = ()
    for name in names:
        if kwargs.pop(name, None) is not None:
            notice(f"{type(logger).__name__}({name}=...)", "self.log(..., reduce_fx=...)")
    return args, kwargs


_TOOLS = {"_convert_params": as_dict, "_flatten_dict": flatten_dict, "_sanitize_params": only_plain}


def tool_of_then(logger: object, name: str) -> Any:
    """What loggers of 1.x found in their base class to bring hyper-parameters into shape."""
    if name not in _TOOLS:
        return read_again(logger, name)
    notice(f"{type(logger).__name__}.{name}", "what log_hyperparams is given: a dict or a Namespace")
    return _TOOLS[name]
