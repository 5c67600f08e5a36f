"""What stands in a checkpoint, told after every checksum was found right and without running code that it holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from leyden.checkpoint.files import TorchCheckpointIO, is_remote, local_path
from leyden.checkpoint.folders import folder_size, is_folder, read_manifest
from leyden.checkpoint.format import decode
from leyden.checkpoint.single_values import MARK
from leyden.checkpoint.verified import peek
from leyden.errors import CheckpointForeign, LeydenError

_LONGEST = 120  # characters of a value that is shown
_TOLD = ("epoch", "global_step", "state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers", "leyden")
_VERSIONS = ("pytorch-lightning_version", "pytorch_lightning_version")
_HYPERPARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "module_arguments")
_ABOUT_HYPERPARAMETERS = ("hparams_name", "hparams_type", "datamodule_hparams_name", "datamodule_hparams_type")


def show(path: str, weights: bool = False) -> None:
    """Print what stands in the checkpoint at ``path``; with ``weights`` every tensor of the module.

    Raises:
        CheckpointError: it is missing, damaged, or no checkpoint, or cannot be read without running code that it holds. (What
            can be told of the last all the same is printed.)
    """
    try:
        checkpoint = TorchCheckpointIO().load_checkpoint(path, "meta", weights_only=True)
    except CheckpointForeign:
        outlined = None if is_remote(path) else peek(local_path(path))
        if isinstance(outlined, Mapping):
            print(f"{path}")
            _say("written by", _writer(outlined))
            _say("keys", ", ".join(map(str, outlined)))
        raise
    if not any(key in checkpoint for key in ("state_dict", *_VERSIONS, "leyden")):
        raise CheckpointForeign(
            f"{path!r} is no checkpoint of a module: it has no 'state_dict'. It holds {_listed(checkpoint)}. (Weights alone, "
            "without the key, are loaded by module.load_state_dict(torch.load(path)).)"
        )
    print(f"{path}{_extent(path)}, undamaged: every checksum is right")
    for name, value in _told(checkpoint):
        _say(name, value)
    if weights:
        for name, tensor in checkpoint.get("state_dict", {}).items():
            print(f"  {name:<40} {_shape(tensor)}")


def _extent(path: str) -> str:
    if is_remote(path):
        return ""
    path = local_path(path)
    if not is_folder(path):
        return f", {_bytes(os.path.getsize(path))}"
    written = read_manifest(path)
    return f", {_bytes(folder_size(path))} in {len(written.files)} files, sharded by {written.world} processes"


def _told(checkpoint: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    own = checkpoint.get("leyden") if isinstance(checkpoint.get("leyden"), Mapping) else None
    yield "written by", _writer(checkpoint)
    progress = (own or {}).get("progress")
    progress = progress if isinstance(progress, Mapping) else {}
    done = f", of which {progress['batch']} batches are done" if "batch" in progress else ""
    epoch = progress.get("epoch", checkpoint.get("epoch", "?"))
    yield "progress", f"step {checkpoint.get('global_step', '?')}, epoch {epoch} (counted from 0){done}"
    state = checkpoint.get("state_dict", {})
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    kinds = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))
    numbers = sum(tensor.numel() for tensor in tensors)
    yield "weights", f"{len(tensors)} tensors, {numbers:,} numbers ({kinds or 'none'}), {_bytes(_size(state))}"
    optimizers = checkpoint.get("optimizer_states") or []
    yield "optimizers", f"{len(optimizers)}, {_bytes(_size(optimizers))}" if optimizers else "none: it holds weights only"
    if checkpoint.get("lr_schedulers"):
        yield "schedulers", str(len(checkpoint["lr_schedulers"]))
    callbacks = checkpoint.get("callbacks") or {}
    for number, (key, values) in enumerate(callbacks.items() if isinstance(callbacks, Mapping) else ()):
        yield "callbacks" if not number else "", f"{_shown(str(key))}{_held(values)}"
    loops = checkpoint.get("loops") or {}
    if loops:
        yield "loops", ", ".join(map(str, loops))
    for key in _HYPERPARAMETERS:
        yield from _hyperparameters(key, checkpoint.get(key))
    if own:
        yield "exact resume", _with_sizes(own)
    known = {*_TOLD, *_VERSIONS, *_HYPERPARAMETERS, *_ABOUT_HYPERPARAMETERS}
    others = {key: value for key, value in checkpoint.items() if key not in known}
    if others:
        yield "other keys", _with_sizes(others)


def _writer(checkpoint: Mapping[str, Any]) -> str:
    version = next((str(checkpoint[key]) for key in _VERSIONS if key in checkpoint), None)
    own = checkpoint.get("leyden")
    if isinstance(own, Mapping):
        torch_version = f", torch {own['torch']}" if "torch" in own else ""
        return f"leyden {own.get('version', '?')}{torch_version}" + (f", as Lightning {version}" if version else "")
    return f"Lightning {version} (foreign to leyden, which reads it)" if version else "neither leyden nor Lightning"


def _hyperparameters(key: str, values: Any) -> Iterator[tuple[str, str]]:
    if not values:
        return
    if not isinstance(values, Mapping):
        yield key, _shown(values)
        return
    title = "of the datamodule" if key.startswith("datamodule") else "hyper-parameters"
    for name, value in values.items():
        yield title, f"{name} = {_shown(_decoded(value))}{_beside(value)}"
        title = ""


def _beside(value: Any) -> str:
    pickle = value.get("pickle") if isinstance(value, Mapping) and MARK in value else None
    return "" if pickle is None else f" (and a pickle of {_bytes(len(pickle))}, for weights_only=False)"


def _decoded(value: Any) -> Any:
    if not (isinstance(value, Mapping) and MARK in value):
        return value
    try:
        return decode(value)
    except (LeydenError, ValueError, TypeError, KeyError, RuntimeError, NotImplementedError):  # what it needs was not read
        return f"a {value[MARK]}"


def _held(values: Any) -> str:
    """The best of what a callback remembers, where it says so."""
    if not isinstance(values, Mapping):
        return ""
    said = [f"{name} {_shown(values[name])}" for name in ("best_model_path", "wait_count") if values.get(name) not in (None, "")]
    return f": {', '.join(said)}" if said else ""


def _with_sizes(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_bytes(_size(part))}" if _size(part) else str(name) for name, part in parts.items())


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else _shape(value) if isinstance(value, torch.Tensor) else repr(value)
    text = text.replace("\n", " ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _shape(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor):
        return type(tensor).__name__
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _size(value: Any) -> int:
    """Bytes of the tensors in ``value``."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(_size(item) for item in items)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _listed(checkpoint: Mapping[str, Any]) -> str:
    names = [repr(key) for key in list(checkpoint)[:6]]
    return ", ".join(names) + (" and more" if len(checkpoint) > 6 else "") if names else "nothing"


def _say(name: str, value: str) -> None:
    print(f"  {name:<18}{value}")
