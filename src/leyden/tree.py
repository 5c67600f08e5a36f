"""Walk nested batches and states: apply a function to every leaf of a type, keeping the containers' own classes; compare two."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

PLAIN = frozenset({bool, int, float, str, bytes, type(None)})
"""Values that hold no others."""
Leaf = type | tuple[type, ...]


def tree_map(data: Any, leaf: Leaf, function: Callable[[Any], Any]) -> Any:
    """Return ``data`` with ``function`` applied to every instance of ``leaf`` in it.

    Dicts, lists, tuples, named tuples and dataclass instances are rebuilt as what they were; anything else is handed
    on as it is. The containers given are never changed.
    """
    if isinstance(data, leaf):
        return function(data)
    kind = type(data)
    if kind is list:
        return [tree_map(item, leaf, function) for item in data]
    if kind is tuple:
        return tuple([tree_map(item, leaf, function) for item in data])
    if kind is dict:
        return {key: tree_map(value, leaf, function) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return kind(*(tree_map(item, leaf, function) for item in data))
    if isinstance(data, defaultdict):
        return defaultdict(data.default_factory, {k: tree_map(v, leaf, function) for k, v in data.items()})
    if isinstance(data, Mapping):
        mapping: Any = copy.copy(data)  # with what hangs on it: a state_dict has `_metadata`
        for key, value in data.items():
            mapping[key] = tree_map(value, leaf, function)
        return mapping
    if isinstance(data, deque):
        return kind([tree_map(item, leaf, function) for item in data], data.maxlen)
    if isinstance(data, list | tuple | set | frozenset):
        return kind([tree_map(item, leaf, function) for item in data])
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        rebuilt: Any = copy.copy(data)
        for field in dataclasses.fields(data):
            if hasattr(data, field.name):
                value = tree_map(getattr(data, field.name), leaf, function)
                object.__setattr__(rebuilt, field.name, value)  # frozen dataclasses too
        return rebuilt
    return data


def ends(asked: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """``asked`` of what may hold other values: no, where one holds itself (as a tree whose children know their parent)."""

    @functools.wraps(asked)
    def answered(value: Any) -> bool:
        try:
            return asked(value)
        except RecursionError:  # or is nested too deeply to be walked
            return False

    return answered


def tree_leaves(data: Any, leaf: Leaf) -> Iterator[Any]:
    """Yield every instance of ``leaf`` in nested ``data``, in order."""
    if isinstance(data, leaf):
        yield data
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from tree_leaves(value, leaf)
    elif isinstance(data, list | tuple | set | frozenset | deque):
        for item in data:
            yield from tree_leaves(item, leaf)
    elif dataclasses.is_dataclass(data) and not isinstance(data, type):
        for field in dataclasses.fields(data):
            if hasattr(data, field.name):
                yield from tree_leaves(getattr(data, field.name), leaf)


def apply_to_collection(data: Any, dtype: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``data`` with ``function(element, *args, **kwargs)`` in place of each element of type ``dtype``: 1.x's :func:`tree_map`."""
    return tree_map(data, dtype, lambda element: function(element, *args, **kwargs))


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of ``tensor``, flat; its own memory where that is contiguous.

    That of a single number is, whatever its stride, and ``view`` takes none but 1.
    """
    whole = tensor.contiguous()
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)


def same_bits(first: Any, second: Any) -> bool:
    """Whether two batches, or two states, are of the same types and hold the same values, dicts in the same order."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and first.device == second.device and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return bool(first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes())
    if isinstance(first, list | tuple) and not PLAIN.issuperset(map(type, first)):
        return len(first) == len(second) and all(map(same_bits, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same_bits(value, second[key]) for key, value in first.items())
    return bool(first == second)
