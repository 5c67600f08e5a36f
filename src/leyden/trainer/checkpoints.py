"""Which checkpoint a verb uses: a path, the best, the newest good one, or none."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass, field
from typing import Any

from leyden.assemble import LOG_FOLDER
from leyden.checkpoint.durable import hold_folder, let_go, quarantine
from leyden.checkpoint.naming import newest_checkpoint
from leyden.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointForeign,
    CheckpointMissing,
    InvalidType,
    LeydenWarning,
    Unsupported,
    did_you_mean,
)
from leyden.state import snapshot
from leyden.state.run import Run


@dataclass
class Choice:
    """A wish for a checkpoint; :meth:`read` turns it into a file's content."""

    asked: str | None
    implicit: bool = False  # nothing was asked: the best if there is one
    fitting: bool = False
    verbose: bool = True
    path: str | None = None
    checkpoint: dict[str, Any] | None = None
    holds: dict[str, int] = field(default_factory=dict)  # folders that are this run's while it runs, and their locks

    @property
    def content(self) -> dict[str, Any]:
        """What was read, or nothing."""
        return self.checkpoint or {}

    def read(self, run: Run, weights_only: bool | None) -> None:
        """Find and read the file; raises :class:`CheckpointError` where it cannot be used."""
        if self.asked is None:
            if self.implicit and not self.fitting:
                self._take_best_if_any(run, weights_only)
            return
        if self.asked == "best":
            self._first_good(run, best_candidates(run) or newest_of_unmonitored(run), weights_only)
            if self.checkpoint is None:
                raise CheckpointMissing(
                    "ckpt_path='best' was asked for, and there is none: no ModelCheckpoint has saved one yet. Fit first, or pass "
                    "a path."
                )
        elif self.asked == "last":
            if self.fitting:
                self._hold(run, given_folders(run))
            self._first_good(run, last_candidates(run), weights_only)
            if self.fitting and self.path is not None:
                self._hold(run, [os.path.dirname(os.path.abspath(self.path))])
            if self.checkpoint is None and not self.fitting:
                raise CheckpointMissing(
                    f"ckpt_path='last' was asked for, and there is no checkpoint under {run.default_root_dir}. Pass a path."
                )
            if self.checkpoint is None:
                run.print("ckpt_path='last': there is no checkpoint yet, so training starts from the beginning.")
            elif self.fitting:
                run.print(f"ckpt_path='last': training goes on from {self.path}.")
            elif self.verbose:
                run.print(f"Using the last checkpoint: {self.path}")
        else:
            self._read_path(run, self.asked, weights_only)

    def _hold(self, run: Run, folders: list[str]) -> None:
        """See that no other process trains in these folders: both would write the same files."""
        if not run.is_global_zero or run.fast_dev_run:
            return
        for folder in map(os.path.abspath, folders):
            if folder in self.holds:
                continue
            try:
                descriptor = hold_folder(folder)
            except BlockingIOError as error:
                raise CheckpointError(
                    f"ckpt_path='last': another run is training with its checkpoints in {folder}. Wait until it has ended, or "
                    f"give this one another folder (dirpath of ModelCheckpoint, default_root_dir)."
                ) from error
            except OSError:
                continue  # it cannot be made: the first save will say so
            if descriptor is not None:
                self.holds[folder] = descriptor

    def close(self) -> None:
        """The run has ended: its folders are free."""
        while self.holds:
            let_go(self.holds.popitem()[1])

    def _read_path(self, run: Run, path: str, weights_only: bool | None) -> None:
        if "://" not in path and not os.path.exists(path):
            folder = os.path.dirname(path) or "."
            near = did_you_mean(os.path.basename(path), os.listdir(folder)) if os.path.isdir(folder) else ""
            raise CheckpointMissing(f"There is no checkpoint at {path}.{near} Pass the path of a file, 'best' or 'last'.")
        self.checkpoint = snapshot.read(run, path, weights_only)
        self.path = path

    def _first_good(self, run: Run, candidates: list[str], weights_only: bool | None) -> None:
        for path in candidates:
            try:
                self.checkpoint = snapshot.read(run, path, weights_only)
            except CheckpointDamaged as error:
                moved = quarantine(path)
                run.warn(f"{error} It was moved to {moved}, and the next good checkpoint is used.", LeydenWarning)
                continue
            except CheckpointForeign:
                if weights_only is False or self.asked != "last":
                    raise
                continue
            if self.fitting and self.asked == "last" and "optimizer_states" not in self.checkpoint:
                self.checkpoint = None  # weights only: nothing to continue from
                continue
            self.path = path
            return

    def _take_best_if_any(self, run: Run, weights_only: bool | None) -> None:
        self._first_good(run, best_candidates(run), weights_only)
        if not self.verbose:
            return
        if self.path is not None:
            run.print(f"Using the best checkpoint: {self.path}")
        else:
            run.print("Using the weights at hand: there is no best checkpoint.")

    def forget(self) -> None:
        """Let the content go once it has been put into the run."""
        self.checkpoint = {snapshot.OURS: {}}


def choose_checkpoint(
    run: Run,
    asked: str | os.PathLike[str] | None,
    *,
    fitting: bool = False,
    implicit: bool = False,
    verbose: bool = True,
) -> Choice:
    """The wish behind ``ckpt_path``."""
    if asked in ("hpc", "registry"):
        raise Unsupported(f"ckpt_path={asked!r} is not offered. Use 'last': it finds the newest checkpoint of the run's folder.")
    if asked is not None and not isinstance(asked, str | os.PathLike):
        raise InvalidType("ckpt_path", asked, "the path or URL of a checkpoint, 'best' or 'last'")
    return Choice(asked=None if asked is None else str(os.fspath(asked)), implicit=implicit, fitting=fitting, verbose=verbose)


def best_candidates(run: Run) -> list[str]:
    """The best checkpoint of a callback that monitors a metric, and after it the next best."""
    for writer in run.checkpoint_callbacks:
        best = writer.best_model_path
        if best and writer.monitor is not None:
            scores = dict(getattr(writer, "best_k_models", {}))
            sign = -1 if getattr(writer, "mode", "min") == "max" else 1
            others = sorted((path for path in scores if path != best), key=lambda path: sign * float(scores[path]))
            return [path for path in (best, *others) if "://" in path or os.path.exists(path)]
    return []


def newest_of_unmonitored(run: Run) -> list[str]:
    """What callbacks without a monitor hold for the best: the newest they wrote."""
    newest = [writer.best_model_path for writer in run.checkpoint_callbacks]
    return [path for path in newest if path and ("://" in path or os.path.exists(path))]


def given_folders(run: Run) -> list[str]:
    """The local folders that checkpoint callbacks were told to write to."""
    folders: list[str] = []
    for writer in run.checkpoint_callbacks:
        folder = getattr(writer, "dirpath", None)
        if folder is not None and getattr(writer, "_given_dirpath", folder) is not None and "://" not in os.fspath(folder):
            folders.append(os.fspath(folder))
    return list(dict.fromkeys(folders))


def last_candidates(run: Run) -> list[str]:
    """Checkpoints of the run's folder, the newest first."""
    found = [path for folder in given_folders(run) for path in newest_checkpoint(folder)]
    if found:
        return sorted(found, key=_written_at, reverse=True)
    places = [os.path.join(glob.escape(run.default_root_dir), LOG_FOLDER, "version_*")]
    for logger in run.loggers:
        root, here = logger.root_dir, logger.log_dir
        places += [os.path.join(glob.escape(root), "version_*")] if root is not None else []
        places += [glob.escape(here)] if here is not None else []
    if not run.loggers:
        places.append(glob.escape(run.default_root_dir))
    versions = sorted({os.path.abspath(found) for place in places for found in glob.glob(os.path.join(place, "checkpoints"))})
    everything = [path for folder in versions for path in newest_checkpoint(folder)]
    return sorted(everything, key=_written_at, reverse=True)


def _written_at(path: str) -> float:
    try:
        return os.path.getmtime(path)
    except OSError:
        return 0.0  # gone since it was listed
