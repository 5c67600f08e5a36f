"""Random generators that data or a module owns: found by looking at attributes, their states taken and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.checkpoint.format import decode, encode
from leyden.data.combined import CombinedLoader

_OWN = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_DEPTH = 4


def generators_in(root: Any) -> dict[str, Any]:
    """Generators among the attributes of ``root`` and of the loaders, samplers, datasets and modules in it, by their path."""
    return dict(_walk(root, "", _DEPTH, set()))


def _walk(part: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if id(part) in seen or depth < 0:
        return
    seen.add(id(part))
    if isinstance(part, _OWN):
        if not isinstance(part, random.SystemRandom):
            yield path, part
        return
    if isinstance(part, CombinedLoader):
        part = part.flattened
    if isinstance(part, list | tuple):
        if len(part) <= 64:
            for index, item in enumerate(part):
                yield from _walk(item, f"{path}.{index}", depth - 1, seen)
        return
    if isinstance(part, Mapping):
        if len(part) <= 64:
            for key, item in part.items():
                yield from _walk(item, f"{path}.{key}", depth - 1, seen)
        return
    if isinstance(part, DataLoader | Dataset | Sampler | torch.nn.Module) or hasattr(part, "__next__") or _is_users(part):
        for name, value in list(getattr(part, "__dict__", {}).items()):
            if name in ("_trainer", "trainer", "_parameters", "_buffers"):
                continue
            yield from _walk(value, f"{path}.{name}" if path else name, depth - 1, seen)


def _is_users(part: Any) -> bool:
    """Whether an object of a user's own class, which may hold a generator (a sampler or transform that inherits from nothing)."""
    module = type(part).__module__.split(".")[0]
    return module not in ("builtins", "torch", "numpy", "leyden", "collections", "functools", "threading", "logging", "types")


def states_of(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Their states, in values that a checkpoint can hold."""
    return {path: _state(generator) for path, generator in generators.items()}


def put_states(generators: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put back what :func:`states_of` returned; a generator that is not there any more is passed over."""
    for path, state in states.items():
        generator = generators.get(path)
        if isinstance(generator, torch.Generator):
            generator.set_state(state.cpu())
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = decode(state)
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(decode(state))
        elif isinstance(generator, random.Random):
            version, words, gauss = state
            generator.setstate((version, tuple(words.tolist()), gauss))


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return encode(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return encode(generator.get_state(legacy=False))
    version, words, gauss = generator.getstate()
    return [version, torch.tensor(words, dtype=torch.int64), gauss]
