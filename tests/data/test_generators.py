"""Random generators anywhere: found, kept once, put back."""

from __future__ import annotations

import enum
import functools
import inspect
import random
import time
from collections import OrderedDict, deque
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.quasirandom import SobolEngine

from leyden.data.generators import generators_in, put_states, states_of
from leyden.data.reachable import reachable

GLOBAL = random.Random(1)


class Holder:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def use(self) -> Any:
        return self.inner


class Layer(nn.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner


class Named(dict[str, Any]):
    pass


class Measured:
    """As a sampler of unknown length: nobody may ask."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        raise TypeError

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


def closed_over(inner: Any) -> Any:
    return lambda: inner


def by_default(inner: Any) -> Any:
    def use(given: Any = inner) -> Any:
        return given

    return use


def in_class(inner: Any) -> Any:
    return type("Held", (), {"inner": inner, "__module__": __name__})()


def in_circle(inner: Any) -> Any:
    holder = Holder(inner)
    holder.self = [holder]  # type: ignore[attr-defined]
    return holder


WAYS = [
    *(Holder, Slotted, Layer, Measured, closed_over, by_default, in_class, in_circle),
    lambda inner: [1, inner],
    lambda inner: ("a", inner),
    lambda inner: {"a": inner},
    lambda inner: OrderedDict(a=inner),
    lambda inner: MappingProxyType({"a": inner}),
    lambda inner: Named(a=inner),
    lambda inner: deque([inner]),
    lambda inner: functools.partial(print, inner),
    lambda inner: functools.partial(print, end=inner),
    lambda inner: Slotted(inner).use,
    lambda inner: nn.Sequential(nn.Linear(1, 1), Layer(inner)),
    lambda inner: torch.utils.data.DataLoader([1], collate_fn=closed_over(inner)),
    lambda inner: torch.utils.data.Subset(Holder(inner), [0]),  # type: ignore[arg-type]
]
KINDS = [
    lambda: torch.Generator().manual_seed(3),
    lambda: np.random.default_rng(3),
    lambda: np.random.RandomState(3),
    lambda: np.random.PCG64(3),
    lambda: random.Random(3),
    lambda: SobolEngine(1, scramble=True, seed=3),
]


def draw(generator: Any) -> float:
    if isinstance(generator, torch.Generator):
        return torch.rand((), generator=generator).item()
    if isinstance(generator, SobolEngine):
        return float(generator.draw(1))
    if isinstance(generator, np.random.BitGenerator):
        return float(generator.random_raw())
    return float(generator.random())


@given(st.lists(st.sampled_from(WAYS), max_size=12), st.sampled_from(KINDS))
def test_a_generator_is_found_at_any_depth_and_goes_on_where_it_was(ways: list[Any], kind: Any) -> None:
    root = generator = kind()
    for way in ways:
        root = way(root)
    found = generators_in({"root": root})
    assert list(found.values()) == [generator]
    states = states_of(found)
    drawn = [draw(generator) for _ in range(3)]
    put_states(found, states)
    assert [draw(generator) for _ in range(3)] == drawn


def test_what_a_hook_draws_from_has_the_same_path_in_every_process() -> None:
    def path() -> list[str]:
        layer, generator = nn.Linear(1, 1), torch.Generator()
        layer.register_forward_hook(lambda *_: generator.seed())  # whose key is counted through the process
        return list(generators_in(layer))

    assert path() == path() == ["_forward_hooks.0.generator"]


def test_a_depth_of_thousands() -> None:
    root: Any = torch.Generator()
    for _ in range(5000):
        root = [Holder(root)]
    assert len(generators_in(root)) == 1


def test_a_shared_one_is_kept_once_by_its_shortest_path() -> None:
    generator = np.random.default_rng(0)
    root = {"deep": [[generator]], "near": generator, "same source": np.random.Generator(generator.bit_generator)}
    assert list(generators_in(root)) == ["near"]


def test_globals_that_a_function_or_a_method_reads_are_found() -> None:
    class Reads:
        def use(self) -> float:
            return GLOBAL.random()

    assert list(generators_in({"a": Reads()}).values()) == [GLOBAL]
    assert list(generators_in({"a": lambda: [GLOBAL.random() for _ in range(3)]}).values()) == [GLOBAL]


def test_the_generators_of_the_process_are_not_among_them() -> None:
    held = [random.random, np.random.normal, torch.default_generator, random.SystemRandom(), np.random.mtrand._rand]
    assert generators_in(held) == {}


@pytest.mark.parametrize("attribute", ["trainer", "_trainer"])
def test_the_trainer_is_not_entered(attribute: str) -> None:
    holder = Holder(1)
    setattr(holder, attribute, torch.Generator())
    assert generators_in(holder) == {}


def test_the_code_of_the_standard_library_is_not_looked_through() -> None:
    """What a module's signature leads to, ``inspect`` and all that it reads, would be most of what there is to look at."""
    kinds: list[type] = []
    module = nn.Linear(1, 1)
    module.signature = inspect.signature(generators_in)  # type: ignore[assignment]  # as ours have it
    assert not list(reachable(module, lambda kind: kinds.append(kind) or False))  # type: ignore[func-returns-value]
    assert inspect.Signature in kinds
    assert enum.EnumMeta not in kinds


def test_ten_thousand_layers_take_a_moment() -> None:
    module = nn.Sequential(*(nn.Sequential(*(nn.Linear(1, 1) for _ in range(99))) for _ in range(100)))
    module.generator = torch.Generator()  # type: ignore[assignment]
    times = []
    for _ in range(5):
        begin = time.process_time()
        assert list(generators_in(module)) == ["generator"]
        times.append(time.process_time() - begin)
    assert min(times) < 0.05 * 3  # 0.035 s on an idle machine; a walk that were not linear would take minutes
