"""One order for all processes: samplers draw it from the first one's random state, whatever the others have drawn meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

from leyden.checkpoint.random_state import as_plain, set_random_state
from leyden.tree import same_bits

T = TypeVar("T")


def host_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators on the CPU, from which samplers draw."""
    return as_plain(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), None)


def advanced(state: Mapping[str, Any], draws: int) -> dict[str, Any]:
    """``state`` after so many numbers of 64 bits, as each opening of a loader draws one."""
    if not draws:
        return dict(state)
    generator = torch.Generator()
    generator.set_state(state["torch"])
    for _ in range(draws):
        torch.empty((), dtype=torch.int64).random_(generator=generator)
    return {**state, "torch": generator.get_state()}


class Stream:
    """The random numbers of one pass over the data, the same on all processes.

    Where this process stands at the same point itself, as all do that were seeded alike, it goes on behind what the order took,
    as alone. Elsewhere its own numbers are put back, one of them drawn: so the next pass has another order.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)
        self.begun = False

    def draw(self, what: Callable[[], T]) -> T:
        """What ``what`` returns when it draws from here."""
        own = host_state()
        is_own = not self.begun and same_bits(own, self.state)
        first, self.begun = not self.begun, True
        if not is_own:
            set_random_state(self.state)
        try:
            return what()
        finally:
            self.state = host_state()
            if not is_own:
                set_random_state(own)
                if first:
                    torch.empty((), dtype=torch.int64).random_()
