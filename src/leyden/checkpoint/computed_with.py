"""Plain attributes that a step computes with: numbers with a fraction, tensors, arrays, and tuples, lists and dicts of these.

In a file an ordered or default dict is a dict: what it becomes again is what is there.
"""

from __future__ import annotations

import hashlib
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.checkpoint.plain_names import plain_name
from leyden.data.reachable import has_attributes, is_users, own_attributes
from leyden.tree import PLAIN, bytes_of, ends, same_bits

MOST_ITEMS = 4096  # in a container: a longer one is a record of something
_MOST_BYTES = 1 << 24  # of what was not there at the beginning, which a step may have left for somebody to look at
_MOST_BYTES_OF_ARRAY = 1 << 22  # which is read at each save
_LOOKED_AT = 256  # numbers of a tensor, at the most, whose change is noticed where PyTorch does not tell of it
_ABSENT = object()
_OF_OPTIMIZERS = ("defaults", "state", "param_groups")  # which their state_dict holds
OBJECT = "object "
_DICTS = (dict, OrderedDict, defaultdict)
_KEPT_OTHERWISE = (nn.Module, Dataset, DataLoader, Sampler, torch.optim.Optimizer, type, tuple, list, dict)
_WHOLE = frozenset({bool, int, str, bytes})
_EVEN_PRIVATE = frozenset({float, Tensor, type(None)})
_TELL = ("state_dict", "on_save_checkpoint")

Part = tuple[str, Any]
"""An object that has such attributes: a layer, a callback, an optimizer. With its name."""


class Followed:
    """The plain attributes of layers, callbacks and optimizers, and of objects that these hold, as they were at the beginning.

    Whole numbers, flags, and lists that grow, are not followed: they often tell of something that is not kept either. Of
    optimizers, and of objects of the user's own of which nothing else has changed, whole numbers and flags are followed too.
    """

    def __init__(self, parts: Iterable[Part], known: nn.Module) -> None:
        self.known = known  # whose layers are kept as such, whoever holds them
        self.put_back: dict[str, Any] = {}  # what a resumed run has put back, which is otherwise than the command has it
        self.written: set[str] = set()  # in place
        self._then: dict[str, Any] = {}
        self._modules_then: dict[str, Any] = {}
        self._else_then: dict[str, dict[str, int]] = {}  # what objects held besides
        self.begin(parts)

    def begin(self, parts: Iterable[Part], names: frozenset[str] | None = None) -> None:
        """What is set until now is the command's: with ``names`` that of attributes so called."""
        parts = list(parts)
        held = {key: value for key, _, own, value in _attributes(parts) if names is None or own in names}
        self._then.update({key: _as_it_is(value) for key, value in held.items() if _is_open(value) or is_followed(key, value)})
        self._modules_then.update({key: marks(each) for key, each in _modules(parts, self.known) if key in held})
        if names is None:
            self._else_then = {name: _held_besides(each) for name, each in parts if name.startswith(OBJECT)}

    def changed(self, parts: Iterable[Part]) -> dict[str, Any]:
        """Those that are otherwise now, by name."""
        found, parts = {}, list(parts)
        wholly = {name for name, each in parts if self._else_then.get(name) == _held_besides(each)}
        for key, owner, own, value in _attributes(parts):
            if _is_open(value) or not (is_number(value) or (is_followed(key, value) and _is_whole(key, wholly))):
                continue
            then = self._then.get(key, _ABSENT)
            if then is _ABSENT and getattr(type(owner), own, _ABSENT) is None:
                then = None
            if key in self.put_back or _differs(value, then):
                found[key] = _in_a_file(value if key in self.put_back else _news(value, then))
        for key, module in _modules(parts, self.known):
            if key in self.put_back or marks(module) != self._modules_then.get(key):
                found[key] = dict(module.state_dict())
        return found

    def in_place(self, parts: Iterable[Part], changed: Mapping[str, Any]) -> list[str]:
        """Which of those that have ``changed`` are the same tensors as at the beginning, which somebody else may hold too."""
        held = ((key, value, self._then.get(key)) for key, _, _, value in _attributes(parts) if key in changed)
        same = {key for key, value, then in held if type(value) is Tensor and type(then) is tuple and then[0]() is value}
        return sorted(same | {key for key in self.written if key in changed})

    def put(self, parts: Iterable[Part], numbers: Mapping[str, Any], device: Any, in_place: Collection[str] = ()) -> None:
        """Set those attributes that are of the same kind today, or are to be found out yet; write into tensors ``in_place``."""
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
            elif key in in_place and type(held) is Tensor and isinstance(value, Tensor) and takes(held, value):
                with torch.no_grad():
                    held.copy_(value)
                self.written.add(key)
            elif _is_open(held) or (is_followed(key, held) and _alike(held, value)):
                _set(owner, own, held, _placed(value, held, device))
            else:
                continue
            self.put_back[key] = None


def parts_of(
    module: nn.Module, callbacks: Iterable[tuple[str, Any]], optimizers: Iterable[Any], datamodule: Any = None
) -> Iterator[Part]:
    """The layers, the user's callbacks and datamodule that tell no state of their own, objects of the user's own that one of
    these holds as an attribute, and the user's kinds of optimizers.
    """
    owners = [(plain_name(name), layer) for name, layer in module.named_modules() if not hasattr(layer, "_defaults")]
    owners += [(f"callback {name}", each) for name, each in callbacks if _tells_nothing(type(each))]
    if datamodule is not None and _tells_nothing(type(datamodule)):
        owners.append(("datamodule", datamodule))
    yield from owners
    seen: set[int] = set()
    for name, owner in owners:
        for own, value in list(vars(owner).items()):
            if type(value) not in PLAIN and own[0] != "_" and id(value) not in seen and _is_object(value):
                seen.add(id(value))
                yield f"{OBJECT}{name}.{own}", value
    for number, optimizer in enumerate(optimizers):
        if is_users(type(optimizer)) and has_attributes(optimizer):
            yield f"optimizer {number}", optimizer


def _tells_nothing(kind: type) -> bool:
    """Whether a kind of callback is the user's own, and neither it nor one of ours below it tells a state."""
    theirs = [base for base in kind.__mro__ if is_users(base)]
    ours = [base for base in kind.__mro__ if base not in theirs and base.__module__.startswith("leyden.callbacks")]
    return bool(theirs) and not ours and not any(name in vars(base) for base in theirs for name in _TELL)


def _is_object(value: Any) -> bool:
    """Whether that is a thing of the user's own making: a meter, a schedule of a weight. Packages know better of theirs."""
    kind = type(value)
    if kind is types.SimpleNamespace:
        return True
    if isinstance(value, _KEPT_OTHERWISE) or not is_users(kind) or not has_attributes(value) or hasattr(kind, "state_dict"):
        return False
    return "-packages" not in (getattr(sys.modules.get(kind.__module__), "__file__", None) or "")


def _held_besides(part: Any) -> dict[str, int]:
    """What an object holds that is not followed, by what it is."""
    return {
        name: id(value)
        for name, value in list(own_attributes(part).items())
        if not (type(value) in PLAIN or is_number(value) or _is_open(value))
    }


def _is_whole(key: str, wholly: set[str]) -> bool:
    return not key.startswith(OBJECT) or key.rpartition(".")[0] in wholly


def _set(owner: Any, own: str, held: Any, value: Any) -> None:
    become = _become(held, value)
    if become is not held:
        with suppress(AttributeError, TypeError):  # of a frozen dataclass, say
            setattr(owner, own, become)


def _become(held: Any, value: Any) -> Any:
    """``value``, in place where others may hold the same container."""
    if isinstance(held, _DICTS) and isinstance(value, dict):
        held.update({key: _become(held.get(key), each) for key, each in value.items()})
    elif type(held) is list and type(value) is list:
        held[:] = map(_become, held, value) if len(held) == len(value) else value
    elif isinstance(held, deque):
        held.clear()
        held.extend(value)
    elif isinstance(held, tuple) and hasattr(held, "_make") and isinstance(value, list):
        return held._make(value)  # in a file of 0.1.0
    else:
        return value
    return held


def _is_open(value: Any) -> bool:
    """Whether that is to be found out yet, on the way."""
    return value is None or ((type(value) in _DICTS or _is_bounded(value)) and not value)


def _is_bounded(value: Any) -> bool:
    return type(value) is deque and value.maxlen is not None


def _is_row(value: Any) -> bool:
    return type(value) in (list, tuple) or _is_bounded(value) or (isinstance(value, tuple) and hasattr(value, "_make"))


def is_followed(key: str, value: Any) -> bool:
    """Whether an attribute of this kind may be followed, of this owner."""
    kind = type(value)
    return is_number(value) or (kind is int and key.startswith("optimizer ")) or (kind in PLAIN and key.startswith(OBJECT))


@ends
def is_number(value: Any) -> bool:
    """Whether ``value`` is a number with a fraction, a tensor without a graph, or an array, or holds such among plain values."""
    kind = type(value)
    if kind is float:
        return True
    if kind is Tensor:
        return not value.requires_grad
    if kind is np.ndarray:
        return not value.dtype.hasobject and value.nbytes <= _MOST_BYTES_OF_ARRAY
    if kind in _DICTS or _is_row(value):
        items = _items(value)
        return (
            0 < len(items) <= MOST_ITEMS
            and all(type(each) in PLAIN or _is_open(each) or is_number(each) for each in items)
            and any(_is_open(each) or is_number(each) for each in items)
            and (kind not in _DICTS or PLAIN.issuperset(map(type, value)))
        )
    return isinstance(value, np.floating)


def _attributes(parts: Iterable[Part]) -> Iterator[tuple[str, Any, str, Any]]:
    for name, owner in parts:
        passed_over = _OF_OPTIMIZERS if name.startswith("optimizer ") else ()
        whole = passed_over or name.startswith(OBJECT)
        for own, value in list(vars(owner).items()):
            kind = type(value)
            if kind in _WHOLE and not whole:  # most of a layer's
                continue
            if (own[0] != "_" or kind in _EVEN_PRIVATE) and own not in passed_over:  # else PyTorch's and ours
                yield f"{name}.{own}", owner, own, value


def _modules(parts: Iterable[Part], known: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that callbacks hold by themselves: a copy whose weights are a running mean."""
    ours = None
    for key, _, _, value in _attributes([part for part in parts if part[0].startswith("callback ")]):
        if isinstance(value, nn.Module) and not hasattr(value, "_defaults"):
            ours = set(map(id, known.modules())) if ours is None else ours
            if id(value) not in ours:
                yield key, value


def _items(container: Any) -> list[Any]:
    return list(container.values() if type(container) in _DICTS else container)


def _in_a_file(value: Any) -> Any:
    if type(value) in _DICTS:
        return {key: _in_a_file(each) for key, each in value.items()}
    return _like(value, map(_in_a_file, value)) if _is_row(value) else value


def _like(row: Any, items: Iterable[Any]) -> Any:
    """A list, tuple, named tuple or deque of ``items``, as ``row`` is one."""
    if type(row) is deque:
        return deque(items, row.maxlen)
    return row._make(items) if hasattr(row, "_make") else type(row)(items)


def _as_it_is(value: Any) -> Any:
    """What tells later whether a value was changed, without the contents of tensors and arrays."""
    kind = type(value)
    if kind is Tensor:
        return weakref.ref(value), _version(value), value.shape, value.dtype, _glance(value)
    if kind is np.ndarray:
        return value.shape, value.dtype, hashlib.blake2b(np.ascontiguousarray(value).view(np.uint8).data).digest()
    if kind in _DICTS:
        return {key: _as_it_is(each) for key, each in value.items()}
    return [_as_it_is(each) for each in value] if _is_row(value) else value


def _differs(value: Any, then: Any) -> bool:
    """Whether a value is another than at the beginning. What was of another kind, length or shape then is not followed."""
    kind = type(value)
    if kind is float:
        return then is _ABSENT or then is None or (type(then) is float and then != value)
    if kind in PLAIN:
        return then is _ABSENT or type(then) is not kind or then != value
    if then is None or (type(then) in (dict, list) and not then):
        return _bytes(value) <= _MOST_BYTES
    if kind is Tensor:
        known = type(then) is tuple and then[2:4] == (value.shape, value.dtype)
        return known and (then[0]() is not value or then[1] != _version(value) or then[4] != _glance(value))
    if kind is np.ndarray:
        return type(then) is tuple and then[:2] == (value.shape, value.dtype) and then != _as_it_is(value)
    if kind in _DICTS:
        known = type(then) is dict and list(then) == list(value)
        return known and any(_changed(value[key], then[key]) for key in value)
    if _is_row(value):
        if type(then) is list and len(then) != len(value) and _is_bounded(value):
            return True
        return type(then) is list and len(then) == len(value) and any(map(_changed, value, then))
    return isinstance(then, np.floating) and not same_bits(then, value)


def _news(value: Any, then: Any) -> Any:
    """Of a dict the items that are otherwise: the others are settings, perhaps."""
    return {key: each for key, each in value.items() if _changed(each, then[key])} if type(value) in _DICTS and then else value


def _changed(item: Any, then: Any) -> bool:
    """The same of an item of a container, which may be any plain value."""
    return type(item) is not type(then) or item != then if type(item) in PLAIN else _differs(item, then)


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return sum(map(_bytes, _items(value))) if type(value) in _DICTS or _is_row(value) else getattr(value, "nbytes", 8)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def marks(module: nn.Module) -> dict[str, Any]:
    """What tells later whether the weights were changed."""
    held = module.state_dict().items()
    return {name: (_version(each), each.shape, each.dtype, _glance(each)) for name, each in held if isinstance(each, Tensor)}


def _glance(value: Tensor) -> bytes | None:
    """Some of its numbers, for what is changed through ``.data``; ``None`` where they cannot be read."""
    try:
        flat = value.detach().reshape(-1)
        return bytes_of(flat[:: max(1, len(flat) // _LOOKED_AT)].clone().cpu()).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without values
        return None


def takes(held: Tensor, value: Tensor) -> bool:
    """Whether ``held`` can become ``value``."""
    alike = value.shape == held.shape and value.dtype == held.dtype
    return alike and not held.is_inference() and 0 not in held.stride()


def _alike(held: Any, value: Any) -> bool:
    """Whether ``held`` can become ``value``, which stood in a file."""
    if held is None or value is None:
        return True
    if isinstance(value, dict):
        known = type(held) in _DICTS
        return known and (not held or all(key in held and _alike(held[key], value[key]) for key in value))
    if _is_row(value):
        return _is_row(held) and (_is_bounded(held) or (len(held) == len(value) and all(map(_alike, held, value))))
    if type(value) is not type(held):
        return False
    if isinstance(value, Tensor):
        return takes(held, value)
    return not isinstance(value, np.ndarray) or bool(held.shape == value.shape and held.dtype == value.dtype)


def _placed(value: Any, held: Any, device: Any) -> Any:
    """``value`` with its tensors where those of ``held`` are, or on the module's device."""
    if isinstance(value, Tensor):
        return value.to(held.device if isinstance(held, Tensor) else device)
    if type(value) is dict:
        return {key: _placed(each, (held or {}).get(key), device) for key, each in value.items()}
    if _is_row(value):
        there = list(held) if held and len(held) == len(value) else [None] * len(value)
        return _like(value, map(_placed, value, there, [device] * len(value)))
    return value
