"""Random generators that data, a module or a callback owns: found by walking what is reachable, their states kept."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.quasirandom import SobolEngine

from leyden.checkpoint.format import decode, encode
from leyden.data.reachable import reachable

_OWN = (torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator, random.Random, SobolEngine)


def generators_in(root: Any) -> dict[str, Any]:
    """Random generators reachable from ``root``, by their path: each once, by the shortest.

    Through attributes (slots too), items, closures, defaults, bound methods, ``functools.partial`` and the globals that a
    user's functions and methods read. The generators of the whole process are not among them.
    """
    found: dict[str, Any] = {}
    sources: set[int] = {*map(id, _global_sources())}
    for path, generator in reachable(root, _is_generator):
        source = _source(generator)
        if id(source) not in sources:
            sources.add(id(source))
            found[path] = generator
    return found


def _is_generator(kind: type) -> bool:
    return issubclass(kind, _OWN) and not issubclass(kind, random.SystemRandom)


def _source(generator: Any) -> Any:
    """What holds the state: several of NumPy's generators may draw from one."""
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator
    return generator._bit_generator if isinstance(generator, np.random.RandomState) else generator


def _global_sources() -> list[Any]:
    """The generators of the whole process: their states are kept as such."""
    shared: list[Any] = [random.__dict__.get("_inst"), _source(np.random.mtrand.__dict__.get("_rand")), torch.default_generator]
    return [*shared, *torch.cuda.default_generators]


# -- their states
def states_of(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Their states, in values that a checkpoint can hold."""
    return as_plain_states(raw_states(generators))


def raw_states(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Their states as they hand them out, which is soon done: see :func:`as_plain_states`."""
    return {path: _state(generator) for path, generator in generators.items()}


def as_plain_states(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`raw_states` returned, in values that a checkpoint can hold."""
    return {path: _plain(state) for path, state in raw.items()}


def put_states(generators: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    """Put back what :func:`states_of` returned; a generator that is not there any more is passed over."""
    for path, state in states.items():
        generator = generators.get(path)
        if isinstance(generator, torch.Generator):
            generator.set_state(state.cpu())
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = decode(state)
        elif isinstance(generator, np.random.BitGenerator):
            generator.state = decode(state)
        elif isinstance(generator, np.random.RandomState):
            generator.set_state(decode(state))
        elif isinstance(generator, SobolEngine):
            generator.reset()
            generator.fast_forward(state)
        elif isinstance(generator, random.Random):
            version, words, gauss = state
            generator.setstate((version, tuple(words.tolist()), gauss))


@contextmanager
def kept(generators: Mapping[str, Any]) -> Iterator[None]:
    """Whatever is drawn inside, these generators go on outside as if nothing had been."""
    states = states_of(generators)
    try:
        yield
    finally:
        put_states(generators, states)


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.BitGenerator):
        return generator.state
    if isinstance(generator, SobolEngine):
        return generator.num_generated
    return generator.get_state(legacy=False) if isinstance(generator, np.random.RandomState) else generator.getstate()


def _plain(state: Any) -> Any:
    if isinstance(state, tuple):  # Python's
        version, words, gauss = state
        return [version, torch.tensor(words, dtype=torch.int64), gauss]
    return state if isinstance(state, torch.Tensor | int) else encode(state)
