"""What hooks of epochs, batches and validations set in other objects than their own: a dataset's stage, a field of settings."""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from torch import nn

from leyden.checkpoint.collected import HOOKS, is_kept, packed, set_in, unpacked
from leyden.checkpoint.places import marked, placed
from leyden.data.reachable import is_users, own_attributes, reachable
from leyden.tree import same_bits

IN_VALIDATION = (
    *("on_validation_start", "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end"),
    *("validation_epoch_end", "on_validation_epoch_end", "on_validation_end"),
)
_HOOKS = (*HOOKS, "on_train_batch_start", "on_train_batch_end", *IN_VALIDATION)
_ABSENT = object()


class SetElsewhere:
    """The user's objects that such hooks may have set something in, as they were before the first one.

    Args:
        hooked: the module and the callbacks. What their hooks set in themselves is not looked at here.
        roots: what such objects are reachable from, by name.
        without: objects that somebody else keeps.
    """

    def __init__(self, hooked: Iterable[Any], roots: Mapping[str, Any], without: Iterable[Any]) -> None:
        hooked = list(hooked)
        self.stored, self.called = _done_by(hooked, _HOOKS)
        self._in_validation = _done_by(hooked, IN_VALIDATION)
        self._known: dict[type, frozenset[str]] = {}
        self._passed_over = {id(each) for each in (*hooked, *without)}
        self._roots: Mapping[str, Any] = {}
        self._parts: list[tuple[str, Any, frozenset[str]]] = []  # with the names of what may be set in each
        self._then: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._find(roots)
        for _, part, names in self._parts:
            names -= self.set_in_validation(type(part))  # which a sanity check has called already, here and not in a resumed run
            held = {name: value for name, value in _settable(part, names).items() if is_kept(value)}
            self._then[id(part)] = part, copy.deepcopy(held)

    def _find(self, roots: Mapping[str, Any]) -> None:
        if [*map(id, roots.values())] == [*map(id, self._roots.values())] or not (self.stored or self.called):
            return
        found = reachable(dict(roots), _may_be_set, through=True)
        self._roots = dict(roots)
        others = ((path, part) for path, part in found if id(part) not in self._passed_over)
        left = [(path, part, _names(type(part), self.stored, self.called)) for path, part in others]
        self._parts = [each for each in left if each[2]]

    def set_in_validation(self, kind: type) -> frozenset[str]:
        """The attributes of an object of this class that a hook of a validation may set, if it has them."""
        if kind not in self._known:
            self._known[kind] = _names(kind, *self._in_validation)
        return self._known[kind]

    def state_dict(self, roots: Mapping[str, Any], device: Any = None) -> dict[str, dict[str, Any]]:
        """What is otherwise now, by path and name; all of it in objects that were not there at the beginning."""
        self._find(roots)
        state = {}
        for path, part, names in self._parts:
            _, then = self._then.get(id(part), (None, {}))
            held = {name: value for name, value in _settable(part, names).items() if is_kept(value)}
            changed = {name: packed(value) for name, value in held.items() if not same_bits(value, then.get(name, _ABSENT))}
            if changed:
                state[path] = marked(changed, device)
        return state

    def put(self, state: Mapping[str, Mapping[str, Any]], device: Any) -> None:
        """Set it again, in objects that stand where they stood; what hooks do not set today is the new command's."""
        for path, part, names in self._parts:
            for name, value in state.get(path, {}).items():
                if name in names:
                    with suppress(AttributeError, TypeError):  # what cannot be set was not set by a hook
                        setattr(part, name, unpacked(placed(value, device)))


def _names(kind: type, stored: frozenset[str], called: frozenset[str]) -> frozenset[str]:
    """The attributes of an object of this class that a hook may set, if it has them."""
    names = set(stored)
    for base in filter(is_users, kind.__mro__):
        for name, held in vars(base).items():
            written = held.fset if isinstance(held, property) and name in stored else held if name in called else None
            if isinstance(written, types.FunctionType):
                names.update(set_in(inspect.unwrap(written).__code__, counted=True))
    return frozenset(names)


def _settable(part: Any, names: frozenset[str]) -> dict[str, Any]:
    """Those of the attributes of ``names`` that ``part`` has."""
    held = {name: value for name, value in own_attributes(part).items() if name in names}
    for name in names:  # an object with __slots__ has no __dict__, or has some of its attributes beside it
        if isinstance(getattr(type(part), name, None), types.MemberDescriptorType) and hasattr(part, name):
            held[name] = getattr(part, name)
    return held


def _may_be_set(kind: type) -> bool:
    if issubclass(kind, nn.Module):
        return not hasattr(kind, "_defaults")  # torchmetrics' are kept as such
    if issubclass(kind, type) or (hasattr(kind, "state_dict") and hasattr(kind, "load_state_dict")):
        return False  # what tells its own state is kept by that
    return kind is types.SimpleNamespace or is_users(kind)


def _done_by(hooked: Iterable[Any], hooks: Iterable[str]) -> tuple[frozenset[str], frozenset[str]]:
    """The names of attributes that the hooks set in whatever object, and of what they call by an attribute's name."""
    stored: set[str] = set()
    called: set[str] = set()
    functions = [(type(owner), function) for owner in hooked for function in _hooks_of(type(owner), hooks)]
    seen = {function.__code__ for _, function in functions}
    for kind, function in functions:
        code = function.__code__
        stored.update(set_in(code, counted=True))
        called.update(code.co_names)
        bound = inspect.getclosurevars(function)
        found = [*bound.globals.values(), *bound.nonlocals.values(), *(getattr(kind, name, None) for name in code.co_names)]
        for each in found:
            if isinstance(each, types.FunctionType) and is_users(each) and each.__code__ not in seen:
                seen.add(each.__code__)
                functions.append((kind, each))
    return frozenset(stored), frozenset(called)


def _hooks_of(kind: type, hooks: Iterable[str]) -> Iterator[types.FunctionType]:
    for name in hooks:
        for base in filter(is_users, kind.__mro__):
            held: Any = vars(base).get(name)
            function = inspect.unwrap(getattr(held, "__func__", held))
            if isinstance(function, types.FunctionType):
                yield function
