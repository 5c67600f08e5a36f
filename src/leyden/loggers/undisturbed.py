"""Run a module for a look at it, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.generators import generators_in, kept
from leyden.data.untouched import untouched


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards random states, modes, buffers and attributes are what they were."""
    modes = {module: module.training for module in model.modules()}
    generators = generators_in(model)
    with untouched(model):
        try:
            for module in modes:
                module.training = False
            with preserved_random_state(), kept(generators), torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode
