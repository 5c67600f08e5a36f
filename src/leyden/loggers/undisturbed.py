"""Run a module for a look at it, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from leyden.checkpoint.random_state import preserved_random_state


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards random state, modes and buffers are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    try:
        for module in modes:
            module.training = False
        with preserved_random_state(), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
