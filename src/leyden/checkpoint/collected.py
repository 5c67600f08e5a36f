"""What an epoch collects in plain attributes: those that its hooks set or empty anew, such as a list of the steps' outputs."""

from __future__ import annotations

import dis
import inspect
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leyden.checkpoint.format import is_writable
from leyden.checkpoint.places import marked, placed
from leyden.data.reachable import has_attributes, is_users
from leyden.tree import PLAIN, ends, tree_map

HOOKS = ("on_train_epoch_start", "on_train_epoch_end", "training_epoch_end", "on_epoch_start", "on_epoch_end")
_STACKED = "leyden: tensors of one shape"
_MANY = 16


_KNOWN: weakref.WeakKeyDictionary[type, dict[tuple[str, ...], frozenset[str]]] = weakref.WeakKeyDictionary()


def set_anew(kind: type, hooks: tuple[str, ...] = HOOKS) -> frozenset[str]:
    """The names of attributes that ``hooks`` of ``kind`` set or empty, and methods of its own that they call.

    ``self.right = 0`` and ``self.outputs.clear()`` are found; ``self.epochs += 1`` counts on, and is not.
    """
    known = _KNOWN.setdefault(kind, {})
    if hooks in known:
        return known[hooks]
    names: set[str] = set()
    asked, seen = list(hooks), set(hooks)
    for method in asked:
        for base in filter(is_users, kind.__mro__):
            held: Any = vars(base).get(method)
            function = inspect.unwrap(getattr(held, "__func__", held))
            if isinstance(function, types.FunctionType):
                names.update(set_in(function.__code__))
                called = [name for name in function.__code__.co_names if name not in seen and callable(getattr(kind, name, None))]
                seen.update(called)
                asked += called
    known[hooks] = frozenset(names)
    return known[hooks]


def set_in(code: types.CodeType, *, counted: bool = False) -> Iterator[str]:
    """The names of attributes that ``code`` sets or empties; with ``counted`` also those that it adds to."""
    steps = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    for at, step in enumerate(steps):
        before = steps[at - 2] if at > 1 else step
        adds = before.opname.startswith("INPLACE_") or (before.opname == "BINARY_OP" and before.argrepr.endswith("="))
        if step.opname == "STORE_ATTR" and (counted or not (adds and steps[at - 1].opname in ("SWAP", "ROT_TWO"))):
            yield step.argval
        elif step.argval == "clear" and at and steps[at - 1].opname.startswith("LOAD_ATTR"):
            yield steps[at - 1].argval


# -- kept across a resume
def collected_by(module: Any, callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What they have collected, by owner and name. A value that no file can hold is left out."""
    found = {}
    for key, owner in owners_of(module, callbacks):
        held = vars(owner)
        own = {name: packed(held[name]) for name in sorted(set_anew(type(owner))) if name in held and is_kept(held[name])}
        if own:
            found[key] = marked(own, getattr(module, "device", None))
    return found


def put_collected(state: Mapping[str, Mapping[str, Any]], module: Any, callbacks: Iterable[Any]) -> None:
    """Let them go on with what :func:`collected_by` found; what their hooks do not set today is theirs."""
    for key, owner in owners_of(module, callbacks):
        for name, value in state.get(key, {}).items():
            if name in set_anew(type(owner)):
                setattr(owner, name, unpacked(placed(value, getattr(module, "device", None))))


def owners_of(module: Any, callbacks: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """The module, and each callback by a name of its own."""
    yield "", module
    counts: dict[str, int] = {}
    for callback in callbacks:
        name = type(callback).__qualname__
        counts[name] = counts.get(name, 0) + 1
        if has_attributes(callback):
            yield f"{name} {counts[name]}", callback


@ends
def is_kept(value: Any) -> bool:
    kind = type(value)
    if kind is list or kind is tuple:
        return all(map(is_kept, value))
    if kind is dict:
        return PLAIN.issuperset(map(type, value)) and all(map(is_kept, value.values()))
    if kind is Tensor:
        return value.layout is torch.strided and value.device.type != "meta"
    return kind in PLAIN or (kind is np.ndarray and not value.dtype.hasobject)


def packed(value: Any) -> Any:
    """Without graphs. Many tensors of one kind become one: a save takes each by itself."""
    if type(value) is list and len(value) >= _MANY and {type(each) for each in value} == {Tensor}:
        kinds = {(each.shape, each.dtype, each.device) for each in value}
        return {_STACKED: torch.stack([each.detach() for each in value])} if len(kinds) == 1 else tree_map(value, Tensor, _plain)
    if type(value) in (list, tuple):
        return type(value)(map(packed, value))
    return {key: packed(each) for key, each in value.items()} if type(value) is dict else tree_map(value, Tensor, _plain)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach()


def unpacked(value: Any) -> Any:
    if type(value) is dict and list(value) == [_STACKED]:
        return list(value[_STACKED].clone().unbind())
    if type(value) in (list, tuple):
        return type(value)(map(unpacked, value))
    return {key: unpacked(each) for key, each in value.items()} if type(value) is dict else value


def lists_of(module: Any) -> dict[str, Any]:
    """Lists and dicts among a module's own attributes that hold something: what its validation steps collect, most likely."""
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, list | dict) and value and is_writable(value)
    }
