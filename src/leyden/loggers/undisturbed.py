"""Run a module for a look at it, or call a logger, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from leyden.checkpoint.modes import Modes
from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.generators import generators_in, kept
from leyden.data.untouched import untouched

_NOTHING = nullcontext()


def undrawn_by(logger: Any) -> AbstractContextManager[None]:
    """Whatever a logger of somebody else draws inside, training's random numbers are what they were. Ours draw none."""
    return _NOTHING if type(logger).__module__.startswith("leyden.") else preserved_random_state()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards random states, modes, buffers and attributes are what they were."""
    modes, generators = Modes(), generators_in(model)
    modes.keep(model)
    with untouched(model):
        try:
            for module in modes.before:
                module.training = False
            with preserved_random_state(), kept(generators), torch.no_grad():
                yield
        finally:
            modes.restore()
