"""What can be handed to other processes: objects by pickle, files by a file system that all see."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any


def is_picklable(obj: object) -> bool:
    """Whether ``obj`` can be pickled."""
    try:
        pickle.dumps(obj)
    except Exception:  # whatever a user's __reduce__ raises means no
        return False
    return True


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
