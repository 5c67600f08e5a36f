"""Where the checkpoints of a run may be: what its callbacks remember, and the folders in which runs keep them."""

from __future__ import annotations

import glob
import os
from typing import Any

from leyden.assemble import LOG_FOLDER
from leyden.checkpoint.naming import FILE_EXTENSION
from leyden.checkpoint.store import CheckpointStore, Place
from leyden.loggers.base import folder_of
from leyden.state.run import Run


def best_candidates(run: Run) -> list[str]:
    """The best checkpoint of a callback that monitors a metric, and after it the next best."""
    for writer in run.checkpoint_callbacks:
        best = writer.best_model_path
        if best and writer.monitor is not None:
            scores = dict(getattr(writer, "best_k_models", {}))
            sign = -1 if getattr(writer, "mode", "min") == "max" else 1
            return [best, *sorted((path for path in scores if path != best), key=lambda path: sign * float(scores[path]))]
    return []


def newest_of_unmonitored(run: Run) -> list[str]:
    """What callbacks without a monitor hold for the best: the newest they wrote."""
    return [writer.best_model_path for writer in run.checkpoint_callbacks if writer.best_model_path]


def place_of(writer: Any, folder: str) -> Place:
    """``folder`` with what ``writer`` calls its files there."""
    subfolders = (getattr(writer, "filename", None) or "").count("/")
    return Place(folder, getattr(writer, "FILE_EXTENSION", FILE_EXTENSION), subfolders)


def given_places(run: Run) -> list[Place]:
    """Where checkpoint callbacks were told to write to."""
    places: list[Place] = []
    for writer in run.checkpoint_callbacks:
        folder = getattr(writer, "dirpath", None)
        if folder is not None and getattr(writer, "_given_dirpath", folder) is not None:
            places.append(place_of(writer, os.fspath(folder)))
    return list(dict.fromkeys(places))


def usual_places(run: Run, store: CheckpointStore) -> list[Place]:
    """The folders in which runs keep checkpoints where nobody says otherwise."""
    roots = [os.path.join(glob.escape(run.default_root_dir), LOG_FOLDER, "version_*")]
    for logger in run.loggers:
        root, here = folder_of(logger, "root_dir"), folder_of(logger, "likely_dir") or folder_of(logger)
        roots += [os.path.join(glob.escape(root), "version_*")] if root is not None else []
        roots += [glob.escape(here)] if here is not None else []
    if not run.loggers:
        roots.append(glob.escape(run.default_root_dir))
    folders = store.folders(os.path.join(root, "checkpoints") for root in roots)
    return list(dict.fromkeys(place_of(writer, folder) for folder in folders for writer in (None, *run.checkpoint_callbacks)))
