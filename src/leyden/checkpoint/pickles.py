"""What only pickle can write: kept in a checkpoint as bytes that nothing reads until the file is trusted.

A checkpoint loads without running code, so a module or an object of a user's own stands in it by the name of its type. Where
the user put it there (hyper-parameters, states of callbacks and of the datamodule, what ``on_save_checkpoint`` adds), it is
pickled besides, and ``weights_only=False`` alone makes it again. A tensor is no part of the pickle: weights of the module are
named, for they are in the file already, and others stand beside the bytes, where ``map_location`` holds for them.
"""

from __future__ import annotations

import io
import pickle
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._weights_only_unpickler import _get_allowed_globals

from leyden.checkpoint.format import as_unwritable
from leyden.checkpoint.random_state import preserved_random_state

_LARGEST = 64 << 20  # bytes of one object, its own tensors included: each checkpoint holds them once more
_OURS = frozenset({"leyden", "optimizer_states", "lr_schedulers", "loops"})
"""Parts of a checkpoint of which a resumed run builds the objects itself."""
_refused: dict[str, weakref.ref[Any]] = {}
"""What could not be pickled the last time, by its path: it is not tried at each save."""


class _TooLarge(Exception):
    """An object needs more than the room that there is for one."""


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
    """Makes an object again, whose tensors are copies of the file's, out of ``allowed`` classes and functions (None: any)."""

    def __init__(self, data: bytes, tensors: list[Tensor], weights: Mapping[str, Any], allowed: Mapping[str, Any] | None) -> None:
        super().__init__(io.BytesIO(data))
        self._allowed = allowed
        self._sources: dict[str, Any] = {"weight": weights, "tensor": tensors}
        self._made: dict[Any, Tensor] = {}

    def find_class(self, module: str, name: str, /) -> Any:
        if self._allowed is None:
            return super().find_class(module, name)
        if f"{module}.{name}" not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not among torch.serialization.get_safe_globals()")
        return self._allowed[f"{module}.{name}"]

    def persistent_load(self, told: Any) -> Tensor:
        source, key, parameter, trainable = told
        if told not in self._made:  # what was one tensor in two places is one again
            value = self._sources[source][key].clone()
            self._made[told] = nn.Parameter(value, trainable) if parameter else value.requires_grad_(trainable)
        return self._made[told]


class Pickles:
    """Pickles what is encoded for a checkpoint of ``module``, whose ``state_dict`` has the names ``written``."""

    def __init__(self, module: nn.Module, written: Mapping[str, Any]) -> None:
        self._module, self._written = module, written
        self._names: dict[int, str] | None = None
        self._done: dict[int, tuple[Any, dict[str, Any]]] = {}  # with what is pickled, so that no id is given twice

    def of(self, value: Any, path: str) -> dict[str, Any]:
        """What is to stand beside the name and type of ``value``; nothing where it cannot be pickled, or takes over 64 MiB.

        Of an object that stands in two places it is the same, which a reader sees.
        """
        refused = _refused.get(path)
        if path.partition(".")[0].partition("[")[0] in _OURS or (refused is not None and refused() is value):
            return {}
        if id(value) not in self._done:
            self._done[id(value)] = value, self._pickled(value, path)
        return self._done[id(value)][1]

    def _pickled(self, value: Any, path: str) -> dict[str, Any]:
        file = _Limited()
        pickler = _Pickler(file, self._weights())
        try:
            with preserved_random_state():  # a user's own __getstate__ may draw
                pickler.dump(value)
        except Exception:  # a lambda, a lock, a class in a function ...: each says it in its own way
            with suppress(TypeError):
                _refused[path] = weakref.ref(value)
            return {}
        return {"pickle": file.getvalue(), "tensors": pickler.tensors}

    def _weights(self) -> dict[int, str]:
        if self._names is None:
            module = self._module
            named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
            self._names = {id(tensor): name for name, tensor in named if name in self._written}
        return self._names


class Objects:
    """Makes the objects again that stand in a checkpoint as pickles, each once.

    With ``weights_only=False`` all of them, which runs code of the file, and what cannot be made (a class is gone) says why.
    Else those whose class, and all that they are made of, is among :func:`torch.serialization.get_safe_globals`.

    Args:
        checkpoint: as it was read. Tensors of an object that are the module's are copies of those in its ``state_dict``.
    """

    def __init__(self, checkpoint: Mapping[str, Any], weights_only: bool | None) -> None:
        weights = checkpoint.get("state_dict")
        self._weights = weights if isinstance(weights, Mapping) else {}
        self._trusted = weights_only is False
        self._made: dict[int, Any] = {}  # by the identity of the bytes that were read, which the checkpoint keeps

    def __call__(self, plain: Mapping[str, Any]) -> Any:
        """The object of which a file says ``plain``; else :class:`~leyden.checkpoint.format.Unwritable`."""
        if id(plain["pickle"]) not in self._made:
            safe = {} if self._trusted else _safe()
            if not self._trusted and plain["type"] not in safe:
                return as_unwritable(plain)
            allowed = None if self._trusted else {**_get_allowed_globals(), **safe}
            try:
                made = _Unpickler(plain["pickle"], plain["tensors"], self._weights, allowed).load()
            except Exception as error:  # each thing that is missing says it in its own way
                return as_unwritable({**plain, "reason": f"{type(error).__name__}: {error}"} if self._trusted else plain)
            self._made[id(plain["pickle"])] = made
        return self._made[id(plain["pickle"])]


def _safe() -> dict[str, Any]:
    """What the user, or a package, has told torch to be safe in a file, by name."""
    given = [each if isinstance(each, tuple) else (each, None) for each in torch.serialization.get_safe_globals()]
    return {name or f"{each.__module__}.{each.__qualname__}": each for each, name in given}
