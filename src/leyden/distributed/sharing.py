"""What can be handed to other processes: objects by pickle, files by a file system that all see."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from leyden.checkpoint.places import marked, placed
from leyden.tree import tree_map

Exceptions = TypeVar("Exceptions", bound=BaseException)


def is_picklable(obj: object) -> bool:
    """Whether ``obj`` can be pickled."""
    try:
        pickle.dumps(obj)
    except Exception:  # whatever a user's __reduce__ raises means no
        return False
    return True


def travels(thing: object) -> bool:
    """Whether another process can be handed ``thing``: it can be pickled, and what comes of that can be read."""
    try:
        pickle.loads(pickle.dumps(thing))
    except Exception:
        return False
    return True


def on_cpu(obj: Any) -> Any:
    """``obj`` with its tensors on the CPU. What is pickled on a device comes back on the device of that number: another's."""
    return tree_map(obj, Tensor, lambda tensor: tensor if tensor.device.type in ("cpu", "meta") else tensor.detach().cpu())


def packed(obj: Any) -> Any:
    """``obj`` in the form of :func:`on_cpu`, with a mark at what was not on this process's device."""
    return on_cpu(marked(obj, _own_device()))


def unpacked(obj: Any) -> Any:
    """What :func:`packed` made, on this process's own device."""
    return placed(obj, _own_device())


def _own_device() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def sendable(error: Exceptions, otherwise: type[Exception]) -> Exceptions | Exception:
    """``error``, which other processes are to raise too; where it does not travel, one of another class that says the same."""
    return error if travels(error) else otherwise(f"{type(error).__name__}: {error}")


def is_shared_filesystem(strategy: Any, path: str | os.PathLike[str] | None = None, timeout: int = 3) -> bool:
    """Whether every process sees the files under ``path`` (default: the working directory). All processes must call it.

    ``timeout`` is accepted for Lightning's sake: nothing is waited for but the other processes.
    """
    folder = Path.cwd() if path is None else path
    if "://" in os.fspath(folder) or strategy.world_size == 1:
        return True
    where = Path(folder)
    if not where.exists():
        return False
    where = where if where.is_dir() else where.parent
    mark = None
    if strategy.global_rank == 0:
        handle, mark = tempfile.mkstemp(prefix=".leyden-shared-", dir=where)
        os.close(handle)
    mark = strategy.broadcast(mark)
    seen = strategy.reduce_boolean_decision(Path(mark).exists(), all=True)
    if strategy.global_rank == 0:
        os.remove(mark)
    return bool(seen)
