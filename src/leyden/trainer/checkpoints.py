"""Which checkpoint a verb uses: a path, the best, the newest good one, or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from leyden.callbacks.checkpoint import store_of
from leyden.callbacks.places import best_candidates, folders_to_hold, gives_way, newest_of_unmonitored, places_of, usual_places
from leyden.callbacks.requeue import requeued
from leyden.callbacks.restarted import restarted
from leyden.checkpoint.files import absolute, is_remote
from leyden.checkpoint.layout import OURS
from leyden.checkpoint.store import CheckpointStore
from leyden.classic.continuation import Continuation
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
class CheckpointRequest:
    """A wish for a checkpoint; :meth:`read` turns it into a file's content. The run's folders are held until :meth:`close`."""

    asked: str | None
    store: CheckpointStore
    implicit: bool = False  # nothing was asked: the best if there is one
    fitting: bool = False
    verbose: bool = True
    path: str | None = None
    checkpoint: dict[str, Any] | None = None
    continuation: Continuation | None = None  # instead of a file

    @property
    def content(self) -> dict[str, Any]:
        """What was read, or nothing."""
        return self.checkpoint or {}

    def read(self, run: Run, weights_only: bool | None) -> None:
        """Find and read the file; raises :class:`CheckpointError` where it cannot be used."""
        if self.asked is None:
            if self.implicit and not self.fitting:
                self._take_best_if_any(run, weights_only)
        elif self.asked == "best":
            best = self.store.worth_reading(best_candidates(run))
            self._first_good(run, best or self.store.worth_reading(newest_of_unmonitored(run)), weights_only)
            if self.checkpoint is None:
                raise CheckpointMissing(
                    "ckpt_path='best' was asked for, and there is none: no ModelCheckpoint has saved one yet. Fit first, or pass "
                    "a path."
                )
        elif self.asked == "last":
            self._read_last(run, weights_only)
        else:
            self._read_path(run, self.asked, weights_only)

    def _read_last(self, run: Run, weights_only: bool | None) -> None:
        found = self.store.newest(places_of(run, self.store))
        self._first_good(run, found or self.store.newest(usual_places(run, self.store)), weights_only)
        if self.fitting and self.path is not None:
            self._hold(run, lambda: [os.path.dirname(absolute(self.path or ""))])
        if self.checkpoint is None and not self.fitting:
            raise CheckpointMissing(
                f"ckpt_path='last' was asked for, and there is no checkpoint under {run.default_root_dir}. Pass a path."
            )
        if self.checkpoint is None:
            run.print("ckpt_path='last': there is no checkpoint yet, so training starts from the beginning.")
        elif self.fitting:
            newer = "".join(
                f"; {name}, which is newer, holds no checkpoint" for name in self.store.newer_versions(self.path or "")
            )
            run.print(f"ckpt_path='last': training goes on from {self.path}{newer}.")
        elif self.verbose:
            run.print(f"Using the last checkpoint: {self.path}")

    def hold(self, run: Run, *, begun: bool) -> None:
        """See that no other process trains in the folders of this fit; what is not known before it has ``begun`` comes later."""
        self._hold(run, lambda: folders_to_hold(run, begun=begun))

    def _hold(self, run: Run, folders: Callable[[], Iterable[str]]) -> None:
        """See that no other process trains in these folders: both would write the same files."""
        if run.fast_dev_run:
            return
        try:
            self.store.hold(folders(), nested=self.asked != "last")
        except BlockingIOError as error:
            if gives_way(run, error.filename):
                return self._hold(run, folders)
            asked = "" if self.asked is None else f"ckpt_path={self.asked!r}: "
            raise CheckpointError(
                f"{asked}another run is training with its files in {error.filename}, and both would write the same ones. "
                f"Wait until it has ended, or give this one another folder (dirpath of ModelCheckpoint, default_root_dir, "
                f"the logger's version)."
            ) from error

    def close(self) -> None:
        """The run has ended: its folders are free."""
        self.store.let_go()

    def _read_path(self, run: Run, path: str, weights_only: bool | None) -> None:
        if run.strategy.checkpoint_io.leyden_needs_folder and not (is_remote(path) or self.store.exists(path)):
            near = did_you_mean(os.path.basename(path), self.store.names(os.path.dirname(path) or "."))
            raise CheckpointMissing(f"There is no checkpoint at {path}.{near} Pass the path of a file, 'best' or 'last'.")
        self.checkpoint = snapshot.read(run, path, weights_only)
        self.path = path

    def _first_good(self, run: Run, candidates: list[str], weights_only: bool | None) -> None:
        for path in candidates:
            try:
                self.checkpoint = snapshot.read(run, path, weights_only)
            except CheckpointDamaged as error:
                moved = self.store.quarantine(path)
                where = "It could not be moved aside" if moved is None else f"It was moved to {moved}"
                run.leyden_warn(f"{error} {where}, and the next good checkpoint is used.", LeydenWarning)
                continue
            except (CheckpointMissing, FileNotFoundError):
                if self.asked != "last":
                    raise
                continue  # gone since it was listed
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
        self._first_good(run, self.store.worth_reading(best_candidates(run)), weights_only)
        if not self.verbose:
            return
        if self.path is not None:
            run.print(f"Using the best checkpoint: {self.path}")
        else:
            run.print("Using the weights at hand: there is no best checkpoint.")

    def forget(self) -> None:
        """Let the content go once it has been put into the run."""
        self.checkpoint = {OURS: {}}


def choose_checkpoint(
    run: Run,
    asked: str | os.PathLike[str] | None,
    *,
    fitting: bool = False,
    implicit: bool = False,
    verbose: bool = True,
) -> CheckpointRequest:
    """The wish behind ``ckpt_path``."""
    store = store_of(run)
    asked = restarted(run, store, requeued(run, asked, fitting), fitting)
    if asked == "registry":
        raise Unsupported(f"ckpt_path={asked!r} is not offered. Use 'last': it finds the newest checkpoint of the run's folder.")
    if asked is not None and not isinstance(asked, str | os.PathLike):
        raise InvalidType("ckpt_path", asked, "the path or URL of a checkpoint, 'best' or 'last'")
    path = None if asked is None else str(os.fspath(asked))
    return CheckpointRequest(path, store, implicit=implicit, fitting=fitting, verbose=verbose)
