"""Weights alone, as a safetensors file that other programs read: written durably, without pickle. Needs ``safetensors``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leyden.checkpoint.single_file import check_place, read_file, write_file
from leyden.errors import CheckpointDamaged, CheckpointMismatch, InvalidType, MissingPackage
from leyden.types import Path


class LoadedWeights(NamedTuple):
    """What did not fit when weights were loaded."""

    missing: list[str]
    """Names in the module that the file lacks."""
    unexpected: list[str]
    """Names in the file that the module lacks."""


def save_weights(module: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the parameters and buffers of ``module`` to a path or an URL, as ``safetensors.torch.load_file`` reads them.

    Tensors that share their memory (tied weights) are written once; the other names stand in the file's metadata, as
    ``safetensors.torch.load_model`` expects them. ``metadata`` adds texts of your own.

    Raises:
        InvalidType: the module's state holds something that is no tensor, or ``path`` is no path.
        InvalidOption: ``path`` is that of a folder.
        MissingPackage: ``safetensors`` is not installed.
        CheckpointWriteFailed: disk full, permission lost ... What stood under ``path`` before is intact.
    """
    safetensors = _safetensors()
    check_place("path", path, opened=False)
    state = module.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InvalidType(name, value, "a tensor: a safetensors file holds nothing else. Use trainer.save_checkpoint")
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        kept[name] = tensor.detach().contiguous().clone()  # safetensors refuses parts of one memory
    write_file(path, safetensors.save(kept, {"format": "pt", **aliases, **(metadata or {})}))


def load_weights(module: nn.Module, path: Path, strict: bool = True) -> LoadedWeights:
    """Put the weights in the safetensors file ``path`` into ``module``; returns the names that did not fit.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointError: it cannot be read.
        CheckpointDamaged: the file is truncated, or none of the kind. (The format has no checksums.)
        CheckpointMismatch: a shape differs; or, with ``strict``, a name is missing or unexpected.
        MissingPackage: ``safetensors`` is not installed.
    """
    safetensors = _safetensors()
    if not isinstance(path, str | os.PathLike):
        raise InvalidType("path", path, "a path")
    path = os.fspath(path)
    content = read_file(path, "weights")
    try:
        state = safetensors.load(content)
    except Exception as error:  # safetensors raises an error of its own that inherits from nothing but Exception
        raise CheckpointDamaged(f"The weights {path!r} cannot be read: {error}. Take a copy of the file.") from error
    mine = module.state_dict()
    shared: dict[tuple[Any, ...], list[str]] = {}
    for name, tensor in mine.items():
        if isinstance(tensor, Tensor) and tensor.numel():
            shared.setdefault((tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape), []).append(name)
    for names in shared.values():
        there = next((name for name in names if name in state), None)
        if there is not None:
            state.update({name: state[there] for name in names if name not in state})
    try:
        with torch.no_grad():
            found = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointMismatch(f"The weights in {path!r} do not fit {type(module).__name__}: {error}") from error
    loaded = LoadedWeights(list(found.missing_keys), sorted(found.unexpected_keys))
    if strict and any(loaded):
        raise CheckpointMismatch(
            f"The weights in {path!r} do not fit {type(module).__name__}: missing {loaded.missing or 'none'}, unexpected "
            f"{loaded.unexpected or 'none'}. With strict=False what fits is taken."
        )
    return loaded


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingPackage("safetensors", "A safetensors file", "safetensors") from error
    return safetensors.torch
