"""Plain attributes that a step computes with: numbers with a fraction, tensors, arrays, and tuples, lists and dicts of these."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leyden.checkpoint.plain_names import plain_name
from leyden.data.reachable import is_users
from leyden.tree import PLAIN, same_bits

_MOST_ITEMS = 4096  # in a container: a longer one is a record of something
_MOST_BYTES = 1 << 24  # of what was not there at the beginning, which a step may have left for somebody to look at
_MOST_BYTES_OF_ARRAY = 1 << 22  # which is read at each save
_LOOKED_AT = 256  # numbers of a tensor, at the most, whose change is noticed where PyTorch does not tell of it
_ABSENT = object()
_OF_OPTIMIZERS = ("defaults", "state", "param_groups")  # which their state_dict holds
_TELL = ("state_dict", "on_save_checkpoint")

Part = tuple[str, Any]
"""An object that has such attributes: a layer, a callback, an optimizer. With its name."""


class Followed:
    """The plain attributes of the module's layers, of callbacks and of optimizers, as they were at the beginning.

    Whole numbers (but of optimizers), flags, and lists that grow, are not followed: they often tell of something that is not
    kept either.
    """

    def __init__(self, parts: Iterable[Part], known: nn.Module) -> None:
        self.known = known  # whose layers are kept as such, whoever holds them
        self.put_back: dict[str, Any] = {}  # what a resumed run has put back, which is otherwise than the command has it
        self._then: dict[str, Any] = {}
        self._modules_then: dict[str, Any] = {}
        self.begin(parts)

    def begin(self, parts: Iterable[Part], names: frozenset[str] | None = None) -> None:
        """What is set until now is the command's: with ``names`` that of attributes so called."""
        parts = list(parts)
        held = {key: value for key, _, own, value in _attributes(parts) if names is None or own in names}
        self._then.update({key: _as_it_is(value) for key, value in held.items() if _is_open(value) or is_followed(key, value)})
        self._modules_then.update({key: _marks(each) for key, each in _modules(parts, self.known) if key in held})

    def changed(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Those that are otherwise now, by name."""
        found, parts = {}, list(parts)
        for key, owner, own, value in _attributes(parts):
            if _is_open(value) or not is_followed(key, value):
                continue
            then = self._then.get(key, _ABSENT)
            if then is _ABSENT and getattr(type(owner), own, _ABSENT) is None:
                then = None
            if key in self.put_back or _differs(value, then):
                found[key] = value if key in self.put_back else _news(value, then)
        for key, module in _modules(parts, self.known):
            if key in self.put_back or _marks(module) != self._modules_then.get(key):
                found[key] = dict(module.state_dict())
        return found

    def put(self, parts: Iterable[Part], numbers: Mapping[str, Any], device: Any) -> None:
        """Set those attributes that are of the same kind today, or are to be found out yet."""
        parts = list(parts)
        owners, modules = dict(parts), dict(_modules(parts, self.known))
        for key, value in numbers.items():
            name, _, own = key.rpartition(".")
            owner = owners.get(name)
            if owner is None:
                continue
            held = getattr(owner, own, None)
            if key in modules and isinstance(value, dict) and value.keys() == modules[key].state_dict().keys():
                modules[key].load_state_dict(value)
            elif _is_open(held) or (is_followed(key, held) and _alike(held, value)):
                _set(owner, own, held, _placed(value, held, device))
            else:
                continue
            self.put_back[key] = None


def parts_of(module: nn.Module, callbacks: Iterable[tuple[str, Any]], optimizers: Iterable[Any]) -> Iterator[Part]:
    """The layers, the user's callbacks that tell no state of their own, and the user's kinds of optimizers."""
    for name, layer in module.named_modules():
        if not hasattr(layer, "_defaults"):  # torchmetrics' are kept as such
            yield plain_name(name), layer
    for name, callback in callbacks:
        if _tells_nothing(type(callback)):
            yield f"callback {name}", callback
    for number, optimizer in enumerate(optimizers):
        if is_users(type(optimizer)) and hasattr(optimizer, "__dict__"):
            yield f"optimizer {number}", optimizer


def _tells_nothing(kind: type) -> bool:
    """Whether a kind of callback is the user's own, and neither it nor one of ours below it tells a state."""
    theirs = [base for base in kind.__mro__ if is_users(base)]
    ours = [base for base in kind.__mro__ if base not in theirs and base.__module__.startswith("leyden.callbacks")]
    return bool(theirs) and not ours and not any(name in vars(base) for base in theirs for name in _TELL)


def _set(owner: Any, own: str, held: Any, value: Any) -> None:
    """In place where others may hold the same container."""
    if type(value) is dict and type(held) is dict:
        held.update(value)
    elif type(value) is list and type(held) is list:
        held[:] = value
    else:
        setattr(owner, own, value)


def _is_open(value: Any) -> bool:
    """Whether that is to be found out yet, on the way."""
    return value is None or (type(value) is dict and not value)


def is_followed(key: str, value: Any) -> bool:
    return is_number(value) or (type(value) is int and key.startswith("optimizer "))


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


def _attributes(parts: Iterable[Part]) -> Iterator[tuple[str, Any, str, Any]]:
    for name, owner in parts:
        passed_over = _OF_OPTIMIZERS if name.startswith("optimizer ") else ()
        for own, value in list(vars(owner).items()):
            if (
                own[0] != "_" or type(value) in (float, Tensor, type(None))
            ) and own not in passed_over:  # else PyTorch's and ours
                yield f"{name}.{own}", owner, own, value


def _modules(parts: Iterable[Part], known: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that callbacks hold by themselves: a copy whose weights are a running mean."""
    ours = None
    for key, _, _, value in _attributes(part for part in parts if part[0].startswith("callback ")):
        if isinstance(value, nn.Module) and not hasattr(value, "_defaults"):
            ours = set(map(id, known.modules())) if ours is None else ours
            if id(value) not in ours:
                yield key, value


def _items(container: Any) -> list[Any]:
    return list(container.values() if type(container) is dict else container)


def _as_it_is(value: Any) -> Any:
    """What tells later whether a value was changed, without the contents of tensors and arrays."""
    kind = type(value)
    if kind is Tensor:
        return weakref.ref(value), _version(value), value.shape, value.dtype, _glance(value)
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
    if then is None or then == {}:
        return _bytes(value) <= _MOST_BYTES
    if kind is Tensor:
        known = type(then) is tuple and then[2:4] == (value.shape, value.dtype)
        return known and (then[0]() is not value or then[1] != _version(value) or then[4] != _glance(value))
    if kind is np.ndarray:
        return type(then) is tuple and then[:2] == (value.shape, value.dtype) and then != _as_it_is(value)
    if kind is dict:
        known = type(then) is dict and list(then) == list(value)
        return known and any(_changed(value[key], then[key]) for key in value)
    if kind in (list, tuple):
        known = type(then) is list and len(then) == len(value)
        return known and any(map(_changed, value, then))
    if kind is int:
        return type(then) is int and then != value
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


def _marks(module: nn.Module) -> dict[str, Any]:
    """What tells later whether the weights were changed."""
    held = module.state_dict().items()
    return {name: (_version(each), each.shape, each.dtype, _glance(each)) for name, each in held if isinstance(each, Tensor)}


def _glance(value: Tensor) -> bytes | None:
    """Some of its numbers, for what is changed through ``.data``; ``None`` where they cannot be read."""
    try:
        flat = value.detach().reshape(-1)
        return flat[:: max(1, len(flat) // _LOOKED_AT)].clone().cpu().view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without values
        return None


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
