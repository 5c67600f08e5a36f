"""What a user's own samplers and loaders carry from pass to pass: a count of their passes, an order that they shuffle further."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, SubsetRandomSampler, WeightedRandomSampler

from leyden.data.reachable import has_attributes, own_attributes
from leyden.tree import PLAIN, same_bits

_NOT = object()
_PACKED = "leyden: a list of whole numbers"
_OF_TORCH = ("_IterableDataset", "_DataLoader")  # attributes that PyTorch's loader keeps for itself


class Carried:
    """Attributes of a loader's parts that iterating may change, and that no generator and no state of their own holds.

    Of samplers these are numbers, texts, tensors and arrays, and lists and dicts of them; of loaders of the user's own, and of
    iterable datasets, numbers and texts alone. Samplers are found inside samplers, and inside loaders of the user's own. Those
    of PyTorch do not change what they hold, such as weights: hooks do.

    Args:
        loader: the loader.
        without: a part that keeps its own state.
        dataset: whether an iterable dataset is iterated in this process.
    """

    def __init__(self, loader: Any, without: Any = None, dataset: bool = True) -> None:
        self.parts = dict(_parts(loader, without, dataset))
        self._before = self._now()
        self._outside: dict[str, dict[str, Any]] | None = None  # while another iterates the same parts
        self.set_by_hooks: Callable[[type], frozenset[str]] = _nothing  # of a class, the names that a validation's hooks set

    def _now(self) -> dict[str, dict[str, Any]]:
        return {path: _values(*part) for path, part in self.parts.items()}

    def _all(self) -> Iterator[tuple[str, str, Any]]:
        return ((path, name, value) for path, values in self._now().items() for name, value in values.items())

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """What is otherwise than when the parts were made, by part and attribute; inside :func:`unmoved`, what it was outside."""
        changed = self._changed()
        return changed if self._outside is None else self._but_for_hooks(self._outside, changed)

    def _but_for_hooks(self, outside: dict[str, dict[str, Any]], now: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """What is ``outside``, with that which hooks set as it is ``now``."""
        mixed = {}
        for path, (part, _) in self.parts.items():
            then, names = outside.get(path, {}), self._names_set(part)
            mixed[path] = {name: value for name, value in then.items() if name not in names}
            mixed[path].update({name: value for name, value in now.get(path, {}).items() if name in names})
        return {path: values for path, values in mixed.items() if values}

    def _names_set(self, part: Any) -> frozenset[str]:
        return frozenset(own_attributes(part)) if _is_torchs(type(part)) else self.set_by_hooks(type(part))

    def _changed(self) -> dict[str, dict[str, Any]]:
        changed = {}
        for path, now in self._now().items() if self.parts else ():
            before, hooks = self._before[path], self.set_by_hooks(type(self.parts[path][0]))  # which a sanity check calls too
            differing = {
                name: value for name, value in now.items() if name in hooks or not same_bits(value, before.get(name, _NOT))
            }
            if differing:
                changed[path] = {name: _packed(value) for name, value in differing.items()}
        return changed

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]] | None) -> None:
        """Let the parts go on from there. What is not in ``state`` is put back to what it was when they were made."""
        if state is None:
            return
        for path, (part, _) in self.parts.items():
            there = {name: _unpacked(value) for name, value in state.get(path, {}).items()}
            for name, value in {**self._before[path], **there}.items():
                _put(part, name, value)


def _nothing(kind: type) -> frozenset[str]:
    return frozenset()


@contextmanager
def unmoved(carried: Iterable[Carried], records: bool = False) -> Iterator[None]:
    """Whatever is iterated inside, these parts go on outside as if nothing had been, but for what a validation's hooks set.

    With ``records`` also but for lists that grow.
    """
    states = [(each, each.state_dict(), each._outside) for each in carried if each.parts]
    before = [each._now() if records else {} for each, *_ in states]
    for each, state, _ in states:
        each._outside = state
    try:
        yield
    finally:
        for (each, state, outer), then in zip(states, before, strict=True):
            grown = [(path, name, value) for path, name, value in each._all() if _has_grown(then.get(path, {}).get(name), value)]
            each.load_state_dict(each._but_for_hooks(state, each._changed()))
            each._outside = outer
            for path, name, value in grown:
                _put(each.parts[path][0], name, value)


def _has_grown(then: Any, now: Any) -> bool:
    return type(then) is type(now) is list and len(now) > len(then) and same_bits(now[: len(then)], then)


def _parts(loader: Any, without: Any, dataset: bool) -> Iterator[tuple[str, tuple[Any, bool]]]:
    """Parts by their path, and whether they are samplers."""
    seen: set[int] = {id(without)}
    queue: list[tuple[str, Any, bool]] = [("", loader, False)]
    for path, part, is_sampler in queue:
        if id(part) in seen:
            continue
        seen.add(id(part))
        if not _is_torchs(type(part)) or _may_be_steered(part):
            yield path, (part, is_sampler)
        for name, value in list(own_attributes(part).items()):
            if name == "dataset" and not (dataset and isinstance(value, IterableDataset)):
                continue
            items = enumerate(value) if type(value) in (list, tuple) and len(value) < 100 else [(None, value)]
            for number, item in items:
                if name == "dataset" or _is_sampler_like(item):
                    inside = ".".join(str(key) for key in (path, name, number) if key not in ("", None))
                    is_one = is_sampler or isinstance(item, Sampler) or name in ("sampler", "batch_sampler")
                    queue.append((inside, item, is_one))


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith(("torch.", "builtins")) or kind in (np.ndarray,)


def _may_be_steered(part: Any) -> bool:
    """Whether a sampler of PyTorch's holds what hooks may set: its weights, or its indices."""
    return isinstance(part, WeightedRandomSampler | SubsetRandomSampler)


def _is_sampler_like(part: Any) -> bool:
    if isinstance(part, Sampler | DataLoader | SimpleNamespace):
        return True
    if isinstance(part, Dataset | torch.Tensor | torch.nn.Module | type) or not has_attributes(part):
        return False
    kind = type(part)
    return hasattr(kind, "__iter__") and not hasattr(kind, "__next__") and not _is_torchs(kind)


def _values(part: Any, is_sampler: bool) -> dict[str, Any]:
    held = {}
    for name, value in own_attributes(part).items():
        if not name.startswith(_OF_TORCH) and (is_sampler or type(value) in PLAIN):
            copied = _copied(value)
            if copied is not _NOT:
                held[name] = copied
    return held


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in (list, tuple, set, frozenset):
        if PLAIN.issuperset(map(type, value)):
            return kind(value)
        items = [_copied(item) for item in value] if kind in (list, tuple) else [_NOT]
        return _NOT if any(item is _NOT for item in items) else kind(items)
    if kind is dict:
        values = {key: _copied(item) for key, item in value.items()}
        known = PLAIN.issuperset(map(type, value)) and not any(item is _NOT for item in values.values())
        return values if known else _NOT
    if kind is torch.Tensor:
        return value.detach().clone()
    if kind is np.ndarray and not value.dtype.hasobject:
        return value.copy()
    return _NOT


def _packed(value: Any) -> Any:
    """A long list of whole numbers, or of lists of them, as tensors: an epoch's order, which a save would go over one by one."""
    if type(value) is not list or len(value) < 100:
        return value
    rows = {type(item) for item in value} == {list}
    flat = [number for row in value for number in row] if rows else value
    if {type(number) for number in flat} != {int}:
        return value
    try:
        numbers = torch.tensor(flat)
    except (RuntimeError, ValueError, OverflowError):  # larger than 64 bits
        return value
    return {_PACKED: numbers, "rows": torch.tensor([len(row) for row in value]) if rows else None}


def _unpacked(value: Any) -> Any:
    if not isinstance(value, dict) or _PACKED not in value:
        return value
    numbers, rows = value[_PACKED].tolist(), value["rows"]
    if rows is None:
        return numbers
    ends = torch.cumsum(rows, 0).tolist()
    return [numbers[end - count : end] for end, count in zip(ends, rows.tolist(), strict=True)]


def _put(part: Any, name: str, value: Any) -> None:
    """In place where that can be done: others may hold the same list."""
    held = own_attributes(part).get(name, _NOT)
    if held is not _NOT and same_bits(_copied(held), value):
        return
    value = _copied(value)
    if type(held) is list and type(value) is list:
        held[:] = value
    elif type(held) is dict and type(value) is dict:
        held.clear()
        held.update(value)
    elif isinstance(held, np.ndarray) and held.shape == np.shape(value) and held.dtype == value.dtype and held.flags.writeable:
        held[...] = value
    else:
        setattr(part, name, value)
