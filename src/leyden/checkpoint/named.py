"""Classes and functions of torch that a checkpoint may name: ``torch.optim.Adam``, ``nn.ReLU``, ``nn.functional.relu``.

A name is all that is written. It is looked up among what is imported already, and gives back only what lies in these modules.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from torch import Tensor

_CLASSES_IN = ("torch.nn.", "torch.optim.", "torch.distributions.", "torchmetrics.")
_FUNCTIONS_IN = ("torch.nn.functional", "torch.nn.init", "torch")


def reference_of(value: Any) -> str | None:
    """``module:name`` where a file may name ``value``."""
    name = getattr(value, "__name__", None)
    if isinstance(value, type):
        places: tuple[str, ...] = (value.__module__,)
    elif isinstance(value, types.FunctionType | types.BuiltinFunctionType):
        places = _FUNCTIONS_IN
    else:
        return None
    return next((f"{place}:{name}" for place in places if named(f"{place}:{name}") is value), None)


def named(reference: str) -> Any:
    """What :func:`reference_of` gave that reference; ``None`` where there is nothing of that name here that a file may name."""
    place, _, name = reference.partition(":")
    found = vars(sys.modules[place]).get(name) if place in sys.modules else None
    if isinstance(found, type):
        return found if f"{place}.".startswith(_CLASSES_IN) and found.__module__ == place else None
    if place not in _FUNCTIONS_IN:
        return None
    if isinstance(found, types.FunctionType):
        return found if found.__module__ == place != "torch" else None
    is_of_tensors = place == "torch.nn.functional" or hasattr(Tensor, name)
    return found if isinstance(found, types.BuiltinFunctionType) and is_of_tensors else None
