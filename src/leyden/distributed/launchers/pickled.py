"""What of the user's objects cannot be sent to a new process, by the path of attributes that leads there."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Buffer, Parameter
from torch.utils.data import DataLoader, Dataset

_DEPTH = 12


class _Nowhere:
    def write(self, _: object) -> int:
        return 0


class _Finding(pickle.Pickler):
    """Goes through all that can be pickled, but for data, and keeps the tensors."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self.found: list[Tensor] = []

    def persistent_id(self, what: Any) -> str | None:
        if isinstance(what, Tensor):
            self.found.append(what)
            return ""
        return "" if isinstance(what, DataLoader | Dataset) else None


def make_own(what: object) -> None:
    """Give the tensors of ``what`` memory of their own, where they share it with other processes: several that share it among
    themselves still do.

    Tensors that are handed to a new process stay where they are: each would train the weights of all. Data may stay there.
    """
    finding = _Finding()
    finding.dump(what)
    copied: dict[int, Any] = {}
    for tensor in finding.found:
        if type(tensor) not in (Tensor, Parameter, Buffer) or tensor.device.type != "cpu" or not tensor.is_shared():
            continue
        memory = tensor.untyped_storage()
        place = memory.data_ptr()
        if place not in copied:
            copied[place] = memory.clone()
        with torch.no_grad():
            tensor.data = tensor.new_empty(0).set_(copied[place], tensor.storage_offset(), tensor.size(), tensor.stride())


def error_of(what: object) -> Exception | None:
    """What pickling ``what`` raises, or ``None``. The bytes are kept nowhere."""
    try:
        pickle.Pickler(_Nowhere()).dump(what)
    except Exception as error:
        return error
    return None


class _Naming(pickle.Pickler):
    """Notes the classes and functions of the running session that a pickle has by name."""

    def __init__(self) -> None:
        super().__init__(_Nowhere())
        self.names: list[str] = []

    def reducer_override(self, what: Any) -> Any:
        if isinstance(what, type | FunctionType) and what.__module__ == "__main__":
            self.names.append(what.__qualname__)
        return NotImplemented


def of_session(what: object) -> str | None:
    """A class or function that a new process would look for in vain: of a notebook or an interactive session, and of no file."""
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is not None or os.path.exists(getattr(main, "__file__", None) or ""):
        return None
    naming = _Naming()
    naming.dump(what)
    return naming.names[0] if naming.names else None


def culprit(what: object, path: str, depth: int = _DEPTH) -> str:
    """The path of the innermost object below ``what`` that cannot be pickled by itself: ``model.layers[0].activation``."""
    for step, part in _parts(what) if depth else ():
        if not isinstance(part, Tensor | str | bytes | int | float) and error_of(part) is not None:
            return culprit(part, path + step, depth - 1)
    return path


def _parts(what: object) -> Iterator[tuple[str, Any]]:
    if isinstance(what, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in what.items())
    elif isinstance(what, list | tuple | set | frozenset):
        yield from ((f"[{number}]", value) for number, value in enumerate(what))
    else:
        if isinstance(what, nn.ModuleList | nn.Sequential):
            yield from ((f"[{number}]", child) for number, child in enumerate(what))
        elif isinstance(what, nn.Module):
            yield from ((f".{name}", child) for name, child in what.named_children())
        state = what.__getstate__() if hasattr(what, "__getstate__") else vars(what) if hasattr(what, "__dict__") else {}
        if isinstance(state, tuple):
            state = {name: value for part in state if isinstance(part, Mapping) for name, value in part.items()}
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if name not in ("_modules", "_parameters", "_buffers"):
                yield f".{name}", value
