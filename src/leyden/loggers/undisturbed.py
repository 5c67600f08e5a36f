"""Run a module for a look at it, and leave no trace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.generators import generators_in, kept


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards random states, modes, buffers and attributes are what they were."""
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    attributes = {module: _attributes(module) for module in modes}
    generators = generators_in(model)
    try:
        for module in modes:
            module.training = False
        with preserved_random_state(), kept(generators), torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
            _put_back(module, attributes[module])
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])


def _attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of its own, with what they hold where a forward may change that in place."""
    return {
        name: (value, copy.copy(value) if type(value) in _HOLDERS else value.clone() if _is_kept(value) else None)
        for name, value in vars(module).items()
        if name not in _LEFT
    }


def _put_back(module: nn.Module, attributes: dict[str, Any]) -> None:
    own = vars(module)
    for name in [name for name in own if name not in attributes and name not in _LEFT]:
        del own[name]
    for name, (value, held) in attributes.items():
        own[name] = value
        if isinstance(value, Tensor) and held is not None:
            with torch.no_grad():
                value.copy_(held)
        elif type(value) is list and held is not None:
            value[:] = held
        elif held is not None:
            value.clear()
            value.update(held)


def _is_kept(value: Any) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.layout is torch.strided


_HOLDERS = (list, dict, set)
_LEFT = frozenset({"_parameters", "_buffers", "_modules", "training", "_trainer"})
