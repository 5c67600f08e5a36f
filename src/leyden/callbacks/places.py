"""Where the checkpoints of a run may be: what its callbacks remember, and the folders in which runs keep them."""

from __future__ import annotations

import glob
import os
from typing import Any

import torch

from leyden.assemble import LOG_FOLDER
from leyden.callbacks.model_checkpoint import ModelCheckpoint
from leyden.callbacks.on_exception_checkpoint import OnExceptionCheckpoint
from leyden.checkpoint.files import absolute
from leyden.checkpoint.naming import FILE_EXTENSION
from leyden.checkpoint.store import CheckpointStore, Place
from leyden.loggers.base import folder_of, keeps_place, run_folder_of
from leyden.state.run import Run

_DEEPEST = 8


def best_candidates(run: Run) -> list[str]:
    """The best checkpoint of a callback that monitors a metric, and after it the next best."""
    for writer in run.leyden_keepers:
        best = writer.best_model_path
        if best and writer.monitor is not None:
            scores = dict(getattr(writer, "best_k_models", {}))
            sign = -1 if getattr(writer, "mode", "min") == "max" else 1
            return [best, *sorted((path for path in scores if path != best), key=lambda path: sign * float(scores[path]))]
    return []


def newest_of_unmonitored(run: Run) -> list[str]:
    """What callbacks without a monitor hold for the best: the newest they wrote."""
    return [writer.best_model_path for writer in run.leyden_keepers if writer.best_model_path]


def place_of(writer: Any, folder: str) -> Place:
    """``folder`` with what ``writer`` calls its files there."""
    last = getattr(writer, "CHECKPOINT_NAME_LAST", "last")
    depth = max(name.count("/") for name in (getattr(writer, "filename", None) or "", last))
    named, extension = getattr(type(writer), "format_checkpoint_name", None), getattr(writer, "FILE_EXTENSION", FILE_EXTENSION)
    if named is not None and named is not ModelCheckpoint.format_checkpoint_name:
        depth = max(depth, _DEEPEST)  # names of the user's own making: nobody else knows how many folders they make
        extension = _own_extension(writer, folder) or extension  # how they end may be of that making too
    return Place(folder, extension, depth, os.path.basename(last))


def _own_extension(writer: Any, folder: str) -> str:
    held = writer.dirpath
    vars(writer)["dirpath"] = held or folder
    try:
        return os.path.splitext(str(writer.format_checkpoint_name(_Zeros())))[1]
    except Exception:  # the user's, who expects other metrics
        return ""
    finally:
        vars(writer)["dirpath"] = held


class _Zeros(dict[str, Any]):
    """Metrics of which each is 0."""

    def __missing__(self, name: str) -> torch.Tensor:
        return torch.tensor(0)


def given_places(run: Run) -> list[Place]:
    """Where checkpoint callbacks were told to write to."""
    places: list[Place] = []
    for writer in run.leyden_keepers:
        folder = getattr(writer, "dirpath", None)
        if folder is not None and getattr(writer, "_given_dirpath", folder) is not None:
            places.append(place_of(writer, absolute(os.fspath(folder))))
    return list(dict.fromkeys(places))


def places_after_exceptions(run: Run) -> list[Place]:
    """The files, and no others beside them, that an :class:`OnExceptionCheckpoint` writes."""
    files = [each.ckpt_path for each in run.callbacks if isinstance(each, OnExceptionCheckpoint)]
    return [Place(os.path.dirname(file), os.path.basename(file), 0, "") for file in files]


def usual_places(run: Run, store: CheckpointStore) -> list[Place]:
    """The folders in which runs keep checkpoints where nobody says otherwise."""
    roots = [os.path.join(glob.escape(run.default_root_dir), LOG_FOLDER, "version_*")]
    for logger in run.loggers:
        pattern = logger.leyden_run_folders(run.default_root_dir) if keeps_place(logger) else None
        if pattern is not None:
            roots.append(pattern)
            continue
        root, here = folder_of(logger, "root_dir"), folder_of(logger, "likely_dir") or folder_of(logger)
        if root is not None:
            roots.append(os.path.join(glob.escape(root), "version_*"))
        if root is not None and here is not None:  # below each version, where this one has a folder of its own below its
            below = os.path.relpath(here, root).split(os.sep, 1)[1:] if here.startswith(root) else []
            roots += [os.path.join(glob.escape(root), "version_*", glob.escape(folder)) for folder in below]
        if here is None or folder_of(logger, "certain_dir") is not None:
            roots.append(glob.escape(run_folder_of(logger, run.default_root_dir)))
        if here is not None:
            roots.append(glob.escape(here))
    if not run.loggers:
        roots.append(glob.escape(run.default_root_dir))
    folders = store.folders(os.path.join(root, "checkpoints") for root in roots)
    return list(dict.fromkeys(place_of(writer, folder) for folder in folders for writer in (None, *run.leyden_keepers)))


def places_of(run: Run, store: CheckpointStore) -> list[Place]:
    """Where this very configuration writes to, and has written to."""
    given, others = given_places(run), places_after_exceptions(run)
    if given and all(getattr(writer, "_given_dirpath", "") is not None for writer in run.leyden_keepers):
        return [*given, *others]
    return [*given, *others, *usual_places(run, store)]


def folders_to_hold(run: Run, *, begun: bool) -> list[str]:
    """The folders into which a fit writes; before its loggers have ``begun``, those that are certain then."""
    folders = [place.folder for place in given_places(run)]
    for writer in run.leyden_keepers if begun else ():
        folder = getattr(writer, "dirpath", None)
        folders += [] if folder is None else [os.fspath(folder)]
    for logger in run.loggers:
        folder = folder_of(logger) if begun else folder_of(logger, "certain_dir")
        if folder is not None and (folder_of(logger, "certain_dir") is not None or os.path.isdir(folder)):
            folders.append(folder)
    return list(dict.fromkeys(map(absolute, folders)))


def gives_way(run: Run, folder: str) -> bool:
    """Another run holds ``folder``: whether a logger of this one had only been told it, and takes the next free one."""
    moved = [logger.leyden_give_way(folder) for logger in run.loggers if keeps_place(logger)]
    given: bool = run.strategy.processes.broadcast(any(moved))
    return given
