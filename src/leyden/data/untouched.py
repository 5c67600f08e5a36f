"""What a module holds is put back behind a look at it: attributes at any depth, and what was changed in place."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from leyden.data.reachable import has_attributes, leads_on, own_attributes

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
_OF_TORCH = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
"""A module's hooks, modes and the like, which others put back or which are to stay."""
_LEFT = frozenset({"_trainer", "trainer", "_initialize_hook", "_load_hook"})
_SOURCES = (Dataset, DataLoader, Sampler, torch.optim.Optimizer)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside, the module's buffers and attributes are what they were: those of what it holds too, but for data."""
    kept = list(_kept_of(model))
    try:
        yield
    finally:
        with torch.inference_mode(False), torch.no_grad():
            for held, before in kept:
                _put_back(held, before)


def _kept_of(model: nn.Module) -> Iterator[tuple[Any, Any]]:
    """All that can be changed in place, each with a copy of what it holds."""
    seen: set[int] = set()
    queue: list[Any] = [model]
    for part in queue:
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            if not isinstance(part, nn.Parameter) and part.layout is torch.strided and 0 not in part.stride():
                yield part, part.detach().clone()
        elif isinstance(part, np.ndarray):
            if part.flags.writeable and not part.dtype.hasobject:
                yield part, part.copy()
        elif type(part) in CONTAINERS:
            yield part, part.copy()
            queue += part.values() if isinstance(part, dict) else part
        elif isinstance(part, tuple | frozenset):
            queue += part
        elif has_attributes(part) and _is_looked_into(part):
            own = _own(part)
            yield part, own
            queue += own.values()


def _is_looked_into(part: Any) -> bool:
    if isinstance(part, nn.Module):
        return not isinstance(part, torch.jit.ScriptModule)
    return not isinstance(part, type) and not isinstance(part, _SOURCES) and not callable(part) and leads_on(type(part))


def _own(part: Any) -> dict[str, Any]:
    left = _LEFT | _OF_TORCH if isinstance(part, nn.Module) else _LEFT
    return {name: value for name, value in own_attributes(part).items() if name not in left}


def _put_back(held: Any, before: Any) -> None:
    if isinstance(held, Tensor):
        held.copy_(before)
    elif isinstance(held, np.ndarray):
        held[...] = before
    elif type(held) not in CONTAINERS:  # hyper-parameters are a dict too, of which only the attributes were noted
        own = vars(held)
        for name in [name for name in _own(held) if name not in before]:
            del own[name]
        own.update(before)
    else:
        refill(held, before)


def refill(held: Any, before: Any) -> None:
    """A container holds what ``before`` holds again; a dict that does so already, in that order, is not written to."""
    if isinstance(held, list):
        held[:] = before
    elif isinstance(held, dict):
        if list(held) != list(before) or any(held[name] is not value for name, value in before.items()):
            held.clear()
            held.update(before)
    elif isinstance(held, set):
        held.clear()
        held |= before
    else:
        held.clear()
        held.extend(before)
