"""Checkpoints of older Lightnings in today's layout: in memory, and as files from the command line."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import sys
import types
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from leyden.checkpoint.files import TorchCheckpointIO, local_path
from leyden.checkpoint.legacy import callback_states_of, is_foreign, lightning_loops, progress_of, top_level_callback_keys
from leyden.errors import InvalidOption, LeydenError
from leyden.version import LIGHTNING

_VERSION = "pytorch-lightning_version"
Checkpoint = MutableMapping[str, Any]


def migrate_checkpoint(checkpoint: Checkpoint, target_version: str | None = None) -> tuple[Checkpoint, dict[str, list[str]]]:
    """Bring a checkpoint of an older Lightning into the layout of 2.x, in place.

    Returns it, and by the version that brought a layout what was done for it; nothing where nothing had to be. A checkpoint of
    ours is left as it is: reading one brings it up to date. Loading a file needs none of this.

    Args:
        target_version: do only what versions up to this one brought, such as ``"1.6.0"``. Default: all.

    Raises :class:`InvalidOption` for a version that is none.
    """
    if target_version is not None and not str(target_version).split(".")[0].isdecimal():
        raise InvalidOption("target_version", target_version, 'a version such as "2.0.0", or None')
    done: dict[str, list[str]] = {}
    if not is_foreign(checkpoint):
        return checkpoint, done
    written_by = checkpoint.get(_VERSION)
    for version, deeds in _DEEDS.items():
        if target_version is None or _numbers(version) <= _numbers(str(target_version)):
            names = [deed.__name__.strip("_") for deed in deeds if deed(checkpoint)]
            if names:
                done[version] = names
    if done:
        checkpoint.setdefault(f"legacy_{_VERSION}", "0.0.0" if written_by is None else written_by)
        checkpoint[_VERSION] = LIGHTNING if target_version is None else str(target_version)
    return checkpoint, done


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int("".join(filter(str.isdecimal, part)) or 0) for part in version.split(".")[:3])


def _callbacks(checkpoint: Checkpoint) -> bool:
    """States of callbacks under their state keys; 0.x had them at the top level, 1.0 to 1.4 under classes."""
    states, old = callback_states_of(checkpoint), top_level_callback_keys(checkpoint)
    if states == (checkpoint.get("callbacks") or {}) and not old:
        return False
    for key in old:
        del checkpoint[key]
    checkpoint["callbacks"] = states
    return True


def _hyper_parameters(checkpoint: Checkpoint) -> bool:
    """Hyper-parameters under the name of 1.0; 0.x called them ``hparams``."""
    for old in ("hparams", "module_arguments"):
        if old in checkpoint and "hyper_parameters" not in checkpoint:
            given = checkpoint.pop(old)
            checkpoint["hyper_parameters"] = (
                dict(vars(given)) if hasattr(given, "__dict__") and not isinstance(given, dict) else given
            )
            checkpoint.setdefault("hparams_name", "hparams" if old == "hparams" else "kwargs")
            return True
    return False


def _precision(checkpoint: Checkpoint) -> bool:
    """The scaler's state under the precision's name."""
    if "native_amp_scaling_state" not in checkpoint:
        return False
    checkpoint["MixedPrecision"] = checkpoint.pop("native_amp_scaling_state")
    return True


def _loops(checkpoint: Checkpoint) -> bool:
    """How far training was, by the loops of 2.x. Weights alone have none."""
    fit = (checkpoint.get("loops") or {}).get("fit_loop") or {}
    if "optimizer_states" not in checkpoint or "epoch_loop.automatic_optimization.optim_progress" in fit:
        return False
    optimizers = max(1, len(checkpoint["optimizer_states"]))
    checkpoint["loops"] = lightning_loops(progress_of(checkpoint), optimizers=optimizers)
    return True


_DEEDS = {"1.0.0": (_callbacks, _hyper_parameters), "1.6.0": (_precision,), "2.0.0": (_loops,)}


@contextmanager
def pl_legacy_patch() -> Iterator[None]:
    """Inside, ``torch.load(path, weights_only=False)`` finds the modules that old files name, where Lightning is not installed.

    Ours reads them without: ``leyden.utilities.cloud_io.load``.
    """
    added: list[str] = []
    if "pytorch_lightning" not in sys.modules and find_spec("pytorch_lightning") is None:
        for name in ("", ".utilities", ".utilities.parsing", ".utilities.argparse", ".callbacks", *_CALLBACKS):
            sys.modules[f"pytorch_lightning{name}"] = importlib.import_module(f"leyden{name}")
            added.append(f"pytorch_lightning{name}")
    for name in ("pytorch_lightning.utilities.argparse_utils", "pytorch_lightning.utilities.gpu_utils"):
        if name not in sys.modules:
            module = types.ModuleType(name)
            module._gpus_arg_default = lambda given: given  # type: ignore[attr-defined]  # 1.0's hyper-parameters name it
            sys.modules[name] = module
            added.append(name)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


_CALLBACKS = (".callbacks.model_checkpoint", ".callbacks.early_stopping")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m leyden.utilities.upgrade_checkpoint PATH``; returns the exit code: 0 where every file is up to date."""
    parser = argparse.ArgumentParser(
        prog="python -m leyden.utilities.upgrade_checkpoint",
        description="Bring checkpoints of older Lightnings into today's layout. The original is kept beside each as .bak.",
    )
    parser.add_argument("path", type=lambda given: Path(local_path(given)), help="a checkpoint, or a folder of checkpoints")
    parser.add_argument("--extension", "-e", default=".ckpt", help="which files of a folder are checkpoints (default: .ckpt)")
    parser.add_argument("--map-to-cpu", action="store_true", help="write all tensors as the CPU's")
    asked = parser.parse_args(arguments)
    if not asked.path.exists():
        print(f"There is no file or folder {asked.path}.", file=sys.stderr)
        return 1
    files = sorted(asked.path.glob(f"**/*{asked.extension}")) if asked.path.is_dir() else [asked.path]
    if not files:
        print(f"{asked.path} holds no file whose name ends with {asked.extension}.", file=sys.stderr)
        return 1
    failed = 0
    for path in files:
        try:
            print(f"{path}: {_upgraded(path, asked.map_to_cpu)}")
        except (LeydenError, OSError) as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
    return int(failed > 0)


def _upgraded(path: Path, map_to_cpu: bool) -> str:
    storage = TorchCheckpointIO()
    checkpoint = storage.load_checkpoint(path, map_location="cpu" if map_to_cpu else lambda tensor, place: tensor)
    _, done = migrate_checkpoint(checkpoint)  # in place
    if not done and not map_to_cpu:
        return "is up to date"
    backup = path.with_suffix(".bak")
    if backup.exists():
        raise FileExistsError(f"its backup would replace {backup}. Move that away first.")
    shutil.copy2(path, backup)
    storage.save_checkpoint(checkpoint, os.fspath(path))
    deeds = ", ".join(name for names in done.values() for name in names)
    return f"upgraded ({deeds or 'tensors on the CPU'}); the original is {backup}"
