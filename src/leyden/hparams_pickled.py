"""Hyper-parameters that only pickle can write, kept beside the others as bytes that nothing reads until the file is trusted.

A checkpoint loads without running code, so a module or an object of a user's own stands in it by its type's name. What
``save_hyperparameters`` was told to keep is pickled besides, and made again by ``load_from_checkpoint(weights_only=False)``
alone. A tensor is no part of the pickle: weights of the module are named, for they are in the file already, and others stand
beside the bytes, where ``map_location`` holds for them.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from leyden.checkpoint.random_state import preserved_random_state
from leyden.errors import CheckpointMismatch

PICKLED = "pickled"
"""The key below ``leyden``. Below it are ``hyper_parameters`` and ``datamodule_hyper_parameters``, by name."""
_LARGEST = 64 << 20  # bytes of one hyper-parameter, its own tensors included: each checkpoint holds them once more


class _TooLarge(Exception):
    """A hyper-parameter needs more than the room that there is for one."""


class _Limited(io.BytesIO):
    """Bytes in memory, of which there may be so many."""

    def write(self, data: Any, /) -> int:
        if self.tell() + memoryview(data).nbytes > _LARGEST:
            raise _TooLarge
        return super().write(data)


class _Pickler(pickle.Pickler):
    """Writes an object; of a tensor, whose it is or where it stands in ``tensors``, and what kind it is."""

    def __init__(self, file: io.BytesIO, weights: Mapping[int, str]) -> None:
        super().__init__(file)
        self._weights, self._places, self._room = weights, dict[int, int](), _LARGEST
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: Any) -> Any:
        name = self._weights.get(id(value))
        plain = type(value) in (Tensor, nn.Parameter)
        if name is None and not plain:
            return None
        kind = isinstance(value, nn.Parameter), value.requires_grad
        return ("weight", name, *kind) if name is not None else ("tensor", self._place(value), *kind)

    def _place(self, value: Tensor) -> int:
        if id(value) not in self._places:
            self._room -= value.numel() * value.element_size()
            if self._room < 0:
                raise _TooLarge
            self._places[id(value)] = len(self.tensors)
            self.tensors.append(value.detach())
        return self._places[id(value)]


class _Unpickler(pickle.Unpickler):
    """Makes an object again, whose tensors are copies of the file's."""

    def __init__(self, data: bytes, tensors: list[Tensor], weights: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(data))
        self._sources: dict[str, Any] = {"weight": weights, "tensor": tensors}
        self._made: dict[Any, Tensor] = {}

    def persistent_load(self, told: Any) -> Tensor:
        source, key, parameter, trainable = told
        if told not in self._made:  # what was one tensor in two places is one again
            value = self._sources[source][key].clone()
            self._made[told] = nn.Parameter(value, trainable) if parameter else value.requires_grad_(trainable)
        return self._made[told]


def pickled(values: Mapping[str, Any], owner: Any, weights: Iterable[str]) -> dict[str, Any]:
    """``values`` as pickles, by name; ``weights`` are the names in the checkpoint's ``state_dict``.

    What cannot be pickled, or takes more than 64 MiB, is left out, and not tried again while it is the same object.
    """
    refused: dict[str, Any] = owner.__dict__.setdefault("_refused_by_pickle", {})
    written = set(weights)
    named: tuple[tuple[str, Tensor], ...] = ()
    if isinstance(owner, nn.Module):
        named = (*owner.named_parameters(remove_duplicate=False), *owner.named_buffers(remove_duplicate=False))
    names = {id(tensor): name for name, tensor in named if name in written}
    found = {}
    with preserved_random_state():  # a user's own __getstate__ may draw
        for name, value in values.items():
            if name in refused and refused[name] is value:
                continue
            file = _Limited()
            pickler = _Pickler(file, names)
            try:
                pickler.dump(value)
            except Exception:  # a lambda, a lock, a class in a function ...: each says it in its own way
                refused[name] = value
                continue
            found[name] = {"pickle": file.getvalue(), "tensors": pickler.tensors}
    return found


def unpickled(kept: Any, left_out: Iterable[str], weights: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What :func:`pickled` returned, made again but for ``left_out``. Runs code of the file that is called ``where``.

    Raises :class:`CheckpointMismatch`, with the name, where something cannot be made.
    """
    made = {}
    for name, entry in kept.items() if isinstance(kept, Mapping) else ():
        if name in left_out:
            continue
        try:
            made[name] = _Unpickler(entry["pickle"], entry["tensors"], weights).load()
        except Exception as error:  # an import that fails, a class that is gone or changed ...
            raise CheckpointMismatch(
                f"The hyper-parameter {name!r} in {where} cannot be unpickled ({type(error).__name__}: {error}). Pass it: "
                f"load_from_checkpoint(path, {name}=...)."
            ) from error
    return made
