"""What layers and callbacks hold that tells its own state: schedulers stepped by hand, scalers, running means, hidden layers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from io import IOBase
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.checkpoint.computed_with import MOST_ITEMS, OBJECT, Part, marks
from leyden.checkpoint.optimizer_states import fitted, scheduler_state
from leyden.data.reachable import is_users, own_attributes
from leyden.errors import LeydenWarning, PossibleUserWarning, warn_user
from leyden.tree import PLAIN

_OF_TORCH = (Optimizer, LRScheduler, torch.amp.GradScaler)
_KEPT_OTHERWISE = (Dataset, DataLoader, Sampler, type)
_CONTAINERS = (list, tuple, dict)
_MOST = 64  # in a container: more are data


class Held:
    """Objects in attributes, or in lists and dicts that are attributes, whose ``state_dict`` is the way to keep them.

    Modules that are no submodules among them: of these only what training has changed is kept, as they may be large.

    Args:
        parts: owners with their names.
        known: whose layers are kept as such, whoever holds them.
        others: what somebody else keeps: the run's optimizers and schedulers.
    """

    def __init__(self, parts: Iterable[Part], known: nn.Module, others: Iterable[Any]) -> None:
        self._then = {key: marks(each) for key, each in _held(parts, known, others) if isinstance(each, nn.Module)}
        self.put_back: set[str] = set()

    def state_dict(self, parts: Iterable[Part], known: nn.Module, others: Iterable[Any]) -> dict[str, Any]:
        """Their states, by name."""
        found = {}
        for key, each in _held(parts, known, others):
            if not isinstance(each, nn.Module):
                found[key] = scheduler_state(each)
            elif key in self.put_back or marks(each) != self._then.get(key):
                found[key] = dict(each.state_dict())
        return found

    def put(self, parts: Iterable[Part], known: nn.Module, others: Iterable[Any], states: Mapping[str, Any]) -> None:
        """Put back what :meth:`state_dict` returned; what is not there today is passed over, and what does not fit is named."""
        for key, each in _held(parts, known, others) if states else ():
            if key not in states:
                continue
            try:
                each.load_state_dict(fitted(states[key], each.state_dict, key, []))
            except Exception as error:
                warn_user(
                    f"{key}.load_state_dict failed with what the checkpoint holds of it ({type(error).__name__}: {error}). It "
                    f"stays as this process built it.",
                    LeydenWarning,
                )
            else:
                self.put_back.add(key)


def _held(parts: Iterable[Part], known: nn.Module, others: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    seen = {*map(id, known.modules()), *map(id, _with_inner(others))}
    for name, owner in parts:
        if name.startswith("optimizer "):
            continue
        of_layers = not name.startswith("callback ")
        for own, value in _attributes(owner):
            inside = isinstance(value, _CONTAINERS)
            for key, each in _items(value) if inside else ((own, value),):
                if type(each) in PLAIN or id(each) in seen or not _tells(each):
                    continue
                if isinstance(each, nn.Module) and (not (inside or of_layers) or _is_of(each, known)):
                    continue  # `computed_with` follows those of callbacks, and what holds the layers alone has nothing to keep
                seen.add(id(each))
                yield ".".join(filter(None, (name, own, str(key) if inside else ""))), each


def _attributes(owner: Any) -> list[tuple[str, Any]]:
    held = vars(owner)
    return [(own, held[own]) for own in sorted(held.keys() - _OF_MODULES) if type(held[own]) not in PLAIN]


_OF_MODULES = frozenset(vars(nn.Module())) | {"_trainer", "_hparams", "_hparams_initial"}


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if len(value) > _MOST:
        return ()
    return list(value.items()) if isinstance(value, dict) else enumerate(value)


def _tells(value: Any) -> bool:
    """Whether that is a thing whose state is told by itself, and kept by nobody else."""
    kind = type(value)
    if isinstance(value, nn.Module):
        return not hasattr(value, "_defaults")  # a metric, which is kept as such
    if isinstance(value, _KEPT_OTHERWISE) or hasattr(kind, "__iter__") or not (isinstance(value, _OF_TORCH) or is_users(kind)):
        return False
    if any(base.__module__.startswith("leyden.") for base in kind.__mro__):
        return False  # a callback, a datamodule, a logger: the run asks them itself
    return callable(getattr(kind, "state_dict", None)) and callable(getattr(kind, "load_state_dict", None))


def _is_iterator(kind: type) -> bool:
    """Whether that is one of Python's, of a loader's, or of the user's own, who tells no state of it."""
    known = kind.__module__ in ("builtins", "itertools") or kind.__module__.startswith("torch.utils.data") or is_users(kind)
    return hasattr(kind, "__next__") and known and not hasattr(kind, "state_dict") and not issubclass(kind, IOBase)


def _is_of(hidden: nn.Module, known: nn.Module) -> bool:
    """Whether all that ``hidden`` is made of is kept with ``known``, which it wraps."""
    theirs = {*map(id, known.parameters()), *map(id, known.buffers())}
    return theirs.issuperset(map(id, [*hidden.parameters(), *hidden.buffers()]))


def hint_unkept(parts: Iterable[Part]) -> None:
    """Say which attributes are iterators, as nobody can tell how far one is, or deques that may become too long for a file."""
    for name, owner in parts:
        for own, value in _attributes(owner):
            shown = ".".join(filter(None, (name.removeprefix(OBJECT).lstrip("."), own)))
            if type(value) is deque and (value.maxlen or 0) > MOST_ITEMS:
                warn_user(
                    f"{shown} is a deque of up to {value.maxlen} items. While it has more than {MOST_ITEMS}, a checkpoint does "
                    f"not hold it, and a resumed run has what this command puts in. Where steps read it, keep it in "
                    f"on_save_checkpoint, in arrays.",
                    PossibleUserWarning,
                )
            if _is_iterator(type(value)):
                warn_user(
                    f"{shown} is an iterator ({type(value).__name__}): no checkpoint can hold how "
                    f"far it is, and a resumed run begins it anew. Keep a number or a random generator to make it from, or give "
                    f"its data to the Trainer's loaders.",
                    PossibleUserWarning,
                )


def _with_inner(others: Iterable[Any]) -> Iterator[Any]:
    """With the optimizers and schedulers that these hold."""
    for each in others:
        yield each
        for value in own_attributes(each).values():
            yield from value if isinstance(value, list) else (value,)
