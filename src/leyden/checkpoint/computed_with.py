"""Plain attributes that a step computes with: numbers with a fraction, tensors, arrays, and tuples, lists and dicts of these."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from leyden.checkpoint.plain_names import plain_name
from leyden.tree import PLAIN, same_bits

_MOST_ITEMS = 64  # in a container: a longer one is a record of something
_MOST_BYTES = 1 << 24  # of what was not there at the beginning, which a step may have left for somebody to look at
_MOST_BYTES_OF_ARRAY = 1 << 22  # which is read at each save
_ABSENT = object()


class Followed:
    """The plain attributes of a module and its layers, as they were at the beginning.

    Whole numbers, flags, and lists that grow, are not followed: they often tell of something that is not kept either.
    """

    def __init__(self, module: nn.Module) -> None:
        self._then = {key: _as_it_is(value) for key, _, _, value in _attributes(module) if value is None or is_number(value)}

    def changed(self, module: nn.Module) -> dict[str, Any]:
        """Those that are otherwise now, by name."""
        found = {}
        for key, child, own, value in _attributes(module):
            if value is None or not is_number(value):
                continue
            then = self._then.get(key, _ABSENT)
            if then is _ABSENT and getattr(type(child), own, _ABSENT) is None:
                then = None
            if _differs(value, then):
                found[key] = _news(value, then)
        return found


def put(owners: dict[str, nn.Module], numbers: dict[str, Any], device: Any) -> None:
    """Set those attributes that are of the same kind today, or are to be found out yet."""
    for key, value in numbers.items():
        name, _, own = key.rpartition(".")
        owner = owners.get(name)
        if owner is None:
            continue
        held = getattr(owner, own, None)
        if held is not None and not (is_number(held) and _alike(held, value)):
            continue
        if type(value) is dict and held:
            held.update(_placed(value, held, device))
        elif type(value) is list and held:
            held[:] = _placed(value, held, device)
        else:
            setattr(owner, own, _placed(value, held, device))


def is_number(value: Any) -> bool:
    """Whether ``value`` is a number with a fraction, a tensor without a graph, or an array, or holds such among plain values."""
    kind = type(value)
    if kind is float:
        return True
    if kind is Tensor:
        return not value.requires_grad
    if kind is np.ndarray:
        return not value.dtype.hasobject and value.nbytes <= _MOST_BYTES_OF_ARRAY
    if kind in (list, tuple, dict):
        items = _items(value)
        return (
            0 < len(items) <= _MOST_ITEMS
            and all(type(each) in PLAIN or is_number(each) for each in items)
            and any(map(is_number, items))
            and (kind is not dict or PLAIN.issuperset(map(type, value)))
        )
    return isinstance(value, np.floating)


def _attributes(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Any]]:
    for name, child in module.named_modules():
        if hasattr(child, "_defaults"):  # torchmetrics' are kept as such
            continue
        for own, value in vars(child).items():
            if own[0] != "_" or type(value) in (float, Tensor, type(None)):  # the others are PyTorch's and ours
                yield f"{plain_name(name)}.{own}", child, own, value


def _items(container: Any) -> list[Any]:
    return list(container.values() if type(container) is dict else container)


def _as_it_is(value: Any) -> Any:
    """What tells later whether a value was changed, without the contents of tensors and arrays."""
    kind = type(value)
    if kind is Tensor:
        return weakref.ref(value), _version(value), value.shape, value.dtype
    if kind is np.ndarray:
        return value.shape, value.dtype, hashlib.blake2b(np.ascontiguousarray(value).view(np.uint8).data).digest()
    if kind is dict:
        return {key: _as_it_is(each) for key, each in value.items()}
    return [_as_it_is(each) for each in value] if kind in (list, tuple) else value


def _differs(value: Any, then: Any) -> bool:
    """Whether a value is another than at the beginning. What was of another kind, length or shape then is not followed."""
    kind = type(value)
    if kind is float:
        return then is _ABSENT or then is None or (type(then) is float and then != value)
    if then is None:
        return _bytes(value) <= _MOST_BYTES
    if kind is Tensor:
        known = type(then) is tuple and then[2:] == (value.shape, value.dtype)
        return known and (then[0]() is not value or then[1] != _version(value))
    if kind is np.ndarray:
        return type(then) is tuple and then[:2] == (value.shape, value.dtype) and then != _as_it_is(value)
    if kind is dict:
        known = type(then) is dict and list(then) == list(value)
        return known and any(_changed(value[key], then[key]) for key in value)
    if kind in (list, tuple):
        known = type(then) is list and len(then) == len(value)
        return known and any(map(_changed, value, then))
    return isinstance(then, np.floating) and not same_bits(then, value)


def _news(value: Any, then: Any) -> Any:
    """Of a dict the items that are otherwise: the others are settings, perhaps."""
    return {key: each for key, each in value.items() if _changed(each, then[key])} if type(value) is dict and then else value


def _changed(item: Any, then: Any) -> bool:
    """The same of an item of a container, which may be any plain value."""
    return type(item) is not type(then) or item != then if type(item) in PLAIN else _differs(item, then)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, _items(value))) if type(value) in (list, tuple, dict) else getattr(value, "nbytes", 8)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def takes(held: Tensor, value: Tensor) -> bool:
    """Whether ``held`` can become ``value``."""
    alike = value.shape == held.shape and value.dtype == held.dtype
    return alike and not held.is_inference() and 0 not in held.stride()


def _alike(held: Any, value: Any) -> bool:
    kind = type(value)
    if kind is not type(held):
        return held is None or value is None
    if kind is Tensor:
        return takes(held, value)
    if kind is np.ndarray:
        return bool(held.shape == value.shape and held.dtype == value.dtype)
    if kind is dict:
        return all(key in held and _alike(held[key], value[key]) for key in value)
    return kind not in (list, tuple) or (len(held) == len(value) and all(map(_alike, held, value)))


def _placed(value: Any, held: Any, device: Any) -> Any:
    """``value`` with its tensors where those of ``held`` are, or on the module's device."""
    if isinstance(value, Tensor):
        return value.to(held.device if isinstance(held, Tensor) else device)
    if type(value) is dict:
        return {key: _placed(each, (held or {}).get(key), device) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_placed, value, held or [None] * len(value), [device] * len(value)))
    return value
