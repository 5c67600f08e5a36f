"""What is reachable from an object: through attributes, items, closures and the globals that a user's functions read."""

from __future__ import annotations

import functools
import gc
import sys
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from leyden.data.combined import CombinedLoader

_NOTHING: frozenset[type] = frozenset(
    {
        *(bool, int, float, complex, str, bytes, bytearray, type(None), type(...), range, slice),
        *(torch.Tensor, torch.nn.Parameter, torch.device, torch.dtype, torch.Size, torch.layout, np.ndarray, np.dtype),
        *(types.ModuleType, types.CodeType, types.FrameType, types.TracebackType, types.GeneratorType, weakref.ref),
    }
)
"""Nothing is reached through these, or nothing that could be found there again."""
_CLOSED = frozenset(
    {"leyden", "logging", "threading", "_thread", "multiprocessing", "concurrent", "asyncio", "ctypes", "re", "io"}
)
"""Packages whose objects hold no generator that is drawn from, or lead to everything."""
_INNER_TORCH = ("torch._", "torch.fx", "torch.jit", "torch.cuda", "torch.distributed", "torch.multiprocessing", "torch.autograd")
_LIBRARIES = frozenset(
    {
        *("builtins", "typing", "abc", "collections", "_collections", "functools", "inspect", "enum", "types", "dataclasses"),
        *("contextlib", "operator", "itertools", "weakref", "warnings", "pathlib", "random", "copy"),
        *("torch", "numpy", "torchmetrics", "lightning_utilities"),
    }
)
"""Packages whose classes' own code and attributes are not looked through."""
_CONTAINERS = frozenset({dict, list, tuple})
_MAY_BE_EMPTY = frozenset({*_CONTAINERS, set, OrderedDict})
_CACHING: type = type(functools.lru_cache(len))
_PASSED_OVER = frozenset({"_trainer", "trainer", "_parameters", "__weakref__"})

Link = tuple[Any, Any]
Reached = Iterable[tuple[Any, Any]]

_FOUND: weakref.WeakKeyDictionary[type, Callable[[Any], Reached] | None] = weakref.WeakKeyDictionary()
"""The ways through the classes that were met."""


def reachable(root: Any, wanted: Callable[[type], bool], *, through: bool = False) -> Iterator[tuple[str, Any]]:
    """What is reachable from ``root`` of types that are ``wanted``, with its path; inside of those only with ``through``.

    Each object is seen once, those nearer to the root first: the time is linear, and circles end.
    """
    ways: dict[type, Callable[[Any], Reached] | None] = dict.fromkeys(_NOTHING)
    asked: dict[type, bool] = {}
    seen: set[int] = {id(root)}
    queue: list[tuple[Any, Link | None]] = [(root, None)]
    for part, link in queue:
        kind = type(part)
        if kind not in ways:
            asked[kind] = wanted(kind)
            ways[kind] = None if asked[kind] and not through else _way_through(kind)
        way = ways[kind]
        if asked.get(kind):
            yield _path(link), part
        if not callable(way):
            continue
        for key, item in way(part):
            kind = type(item)
            if kind in _NOTHING or id(item) in seen or (kind in _CONTAINERS and not item):
                continue
            if kind in _CONTAINERS and _NOTHING.issuperset(map(type, item.values() if kind is dict else item)):
                continue  # plain data, of which there may be much
            seen.add(id(item))
            queue.append((item, link if key is None else (link, key)))


def _path(link: Link | None) -> str:
    keys = []
    while link is not None:
        link, key = link
        keys.append(str(key))
    return ".".join(reversed(keys))


# -- ways through
def _way_through(kind: type) -> Callable[[Any], Reached] | None:
    """How to get at what an object of this class holds; ``None`` where nothing is looked for."""
    try:
        return _FOUND[kind]
    except KeyError:
        way = _FOUND[kind] = _find_way_through(kind)
        return way


def _find_way_through(kind: type) -> Callable[[Any], Reached] | None:
    if issubclass(kind, torch.Tensor | weakref.ref | types.ModuleType):
        return None
    if issubclass(kind, dict):
        return _items if kind.__module__ in ("builtins", "collections") else _items_and_attributes
    if issubclass(kind, list | tuple | deque):
        return _elements if kind.__module__ in ("builtins", "collections") else _elements_and_attributes
    special = _WAYS.get(kind)
    if special is not None:
        return special
    if issubclass(kind, CombinedLoader):
        return lambda part: iter(enumerate(part.flattened))
    if issubclass(kind, functools.partial):
        return _partial
    if issubclass(kind, type):
        return _class
    module = kind.__module__
    if issubclass(kind, torch.nn.Module):
        return _module
    if (
        module.split(".")[0] in _CLOSED
        or module.startswith(_INNER_TORCH)
        or any(base.__module__.startswith("leyden.trainer") for base in kind.__mro__)
    ):
        return None
    slots = [name for base in kind.__mro__ for name in _slots(base)]
    return functools.partial(_attributes_and_slots, slots) if slots else _attributes


def leads_on(kind: type) -> bool:
    """Whether objects of this class may hold something that is their owner's."""
    return kind not in _NOTHING and kind not in _WAYS and _way_through(kind) is not None


def _slots(base: type) -> list[str]:
    return [
        name for name, held in vars(base).items() if isinstance(held, types.MemberDescriptorType) and name not in _PASSED_OVER
    ]


def has_attributes(part: Any) -> bool:
    """Whether an object has a dict of attributes, empty or not, whatever its ``__getattr__`` says."""
    return type(part).__dictoffset__ != 0


def own_attributes(part: Any) -> dict[str, Any]:
    """The dict of an object's attributes, itself; an empty one where it has none, whatever its ``__getattr__`` says."""
    try:
        held = object.__getattribute__(part, "__dict__")
    except AttributeError:
        return {}
    return held if isinstance(held, dict) else {}


def _attributes(part: Any) -> Reached:
    left = "_iterator" if isinstance(part, torch.utils.data.DataLoader) else None  # of a pass, with copies of what it reads
    yield from [item for item in own_attributes(part).items() if item[0] not in _PASSED_OVER and item[0] != left]
    if is_users(type(part)):
        yield None, type(part)


def _attributes_and_slots(slots: list[str], part: Any) -> Reached:
    yield from _attributes(part)
    for name in slots:
        try:
            yield name, object.__getattribute__(part, name)
        except AttributeError:
            continue


def _module(part: Any) -> Reached:
    held = [
        (name, value)
        for name, value in part.__dict__.items()
        if (kind := type(value)) not in _NOTHING and (kind not in _MAY_BE_EMPTY or value) and name not in _PASSED_OVER
    ]
    inside = next((list(value.items()) for name, value in held if name == "_modules"), [])
    # hooks by their order: their keys are counted through the process
    rest = [
        (name, list(value.values()) if name.endswith("_hooks") and isinstance(value, dict) else value) for name, value in held
    ]
    return [*(each for each in rest if each[0] != "_modules"), *inside, (None, type(part))]


def _items(part: Any) -> Reached:
    return iter(list(part.items()))


def _elements(part: Any) -> Reached:
    return iter(enumerate(list(part)))


def _items_and_attributes(part: Any) -> Reached:
    yield from list(dict.items(part))
    yield from _attributes(part)


def _elements_and_attributes(part: Any) -> Reached:
    yield from enumerate(list(part))
    yield from _attributes(part)


def _partial(part: Any) -> Reached:
    yield "func", part.func
    yield "args", part.args
    yield "keywords", part.keywords
    yield from list(part.__dict__.items())


def _method(part: Any) -> Reached:
    yield "__self__", part.__self__
    yield "__func__", part.__func__


def _of_c(part: Any) -> Reached:
    yield "__self__", getattr(part, "__self__", None)


def _function(part: Any) -> Reached:
    for name, cell in zip(part.__code__.co_freevars, part.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    if part.__defaults__:
        yield "__defaults__", part.__defaults__
    if part.__kwdefaults__:
        yield "__kwdefaults__", part.__kwdefaults__
    yield from list(part.__dict__.items())
    if part.__module__ is not None and is_users(part):
        there = part.__globals__
        yield from [(name, there[name]) for name in _names_in(part.__code__) if name in there]


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> list[str]:
    """What a function, or one inside of it, may read of the globals."""
    names = [name for name in code.co_names if not name.startswith("__")]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names_in(constant)
    return names


def _class(part: Any) -> Reached:
    if is_users(part):
        for base in part.__mro__:
            if is_users(base):
                yield from [item for item in vars(base).items() if not isinstance(item[1], types.MemberDescriptorType)]


def _descriptor(part: Any) -> Reached:
    for name in ("fget", "__func__", "func"):
        yield name, getattr(part, name, None)


def is_users(part: Any) -> bool:
    """Whether a class or function is of the user's own code, whose globals and class attributes may hold a generator."""
    root = (part.__module__ or "builtins").split(".")[0]
    return root not in _LIBRARIES and root not in _CLOSED


_WAYS: dict[type, Callable[[Any], Reached]] = {
    types.FunctionType: _function,
    types.MethodType: _method,
    types.BuiltinMethodType: _of_c,
    types.MethodWrapperType: _of_c,
    property: _descriptor,
    classmethod: _descriptor,
    staticmethod: _descriptor,
    functools.cached_property: _descriptor,
    types.MappingProxyType: _items,
}


def make_normal(root: Any) -> None:
    """Replace inference tensors that objects reachable from ``root`` hold by normal ones of the same values.

    What a module makes in its first forward and keeps, a table or a mask, is such a tensor where that forward was a validation's,
    and could not be trained with. Called outside of inference mode.
    """
    ways: dict[type, Callable[[Any], Reached] | None] = dict.fromkeys(_NOTHING)
    seen: set[int] = {id(root)}
    queue = [root]
    for part in queue:
        kind = type(part)
        if kind not in ways:
            ways[kind] = _way_through(kind)
        way = ways[kind]
        if way is None:
            continue
        for place in _places(part):
            for key, value in list(place.items() if isinstance(place, dict) else enumerate(place)):
                new = _normal(value)
                if new is not value:
                    place[key] = new
        for there, name, value in _bound(part):
            new = _normal(value)
            if new is not value:
                setattr(there, name, new)
        if kind is _CACHING and _keeps_inference(part):
            part.cache_clear()  # its values cannot be written to, and are made again
        for _, item in way(part):
            if type(item) not in _NOTHING and id(item) not in seen:
                seen.add(id(item))
                queue.append(item)


def _bound(part: Any) -> Iterator[tuple[Any, str, Any]]:
    """Tensors and tuples that stand in no list or dict: where, under which name, and what."""
    if isinstance(part, types.FunctionType):
        for cell in part.__closure__ or ():
            with suppress(ValueError):  # not filled yet
                yield cell, "cell_contents", cell.cell_contents
        module = sys.modules.get(part.__module__ or "")
        if module is not None and vars(module) is part.__globals__ and is_users(part):
            yield from [(module, name, part.__globals__[name]) for name in _names_in(part.__code__) if name in part.__globals__]
    elif isinstance(part, type):
        for base in filter(is_users, part.__mro__):
            yield from [(base, name, value) for name, value in vars(base).items() if isinstance(value, torch.Tensor | tuple)]
    else:
        for name in (name for base in type(part).__mro__ for name in _slots(base)):
            with suppress(AttributeError):
                yield part, name, object.__getattribute__(part, name)


def _keeps_inference(cache: Any) -> bool:
    """Whether a function under ``functools.lru_cache`` keeps an inference tensor, in lists and dicts too."""
    queue, seen = gc.get_referents(cache), set[int]()
    for held in queue:
        if isinstance(held, torch.Tensor):
            if held.is_inference():
                return True
        elif id(held) not in seen and (type(held) in _MAY_BE_EMPTY or type(held).__name__ == "_lru_list_elem"):
            seen.add(id(held))
            queue += gc.get_referents(held)
    return False


def _places(part: Any) -> list[Any]:
    """Where ``part`` holds what it holds, as lists and dicts that can be written to."""
    held = [part] if isinstance(part, list | dict | deque) else []
    own = own_attributes(part) if not isinstance(part, type) else {}
    if not isinstance(part, torch.nn.Module):
        return [*held, own]
    # those of a module that TorchScript has made are no dicts
    return [own, *(own[kind] for kind in ("_buffers", "_parameters") if isinstance(own.get(kind), dict))]


def _copied(value: torch.Tensor) -> torch.Tensor:
    """A copy of the same class with the same attributes. A class of the user's own is not asked how to copy itself."""
    with torch._C.DisableTorchFunctionSubclass():
        copied = torch.Tensor.clone(value)
        if type(copied) is type(value) or isinstance(value, torch.nn.Parameter):
            return copied
        copied = torch.Tensor.as_subclass(copied, type(value))
    vars(copied).update(vars(value))
    return copied


def _normal(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if not value.is_inference():
            return value
        copied = _copied(value)
        return torch.nn.Parameter(copied, value.requires_grad) if isinstance(value, torch.nn.Parameter) else copied
    if type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields")):
        items = [_normal(item) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return tuple(items) if type(value) is tuple else type(value)(*items)
    return value
