"""The files of one writer, as an earlier process left them: recognised, put in order, and not mixed up with new ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, final

from leyden.checkpoint.files import is_remote, local_path
from leyden.checkpoint.retention import Retention, moved, within
from leyden.checkpoint.store import CheckpointStore, FileStore
from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import InvalidOption, PossibleUserWarning, warn_user
from leyden.types import Path


@final
class Upkeep:
    """Where the records of a writer meet what is there. It writes and removes nothing that the records do not name.

    Args:
        retention: The records.

    Attributes:
        store: Where the files lie; the local disk until a run says otherwise.
        resumed: Whether the records are those of an earlier process.
    """

    def __init__(self, retention: Retention) -> None:
        self.store: CheckpointStore = FileStore()
        self._retention = retention
        self.forget()

    def forget(self) -> None:
        """Begin a new fit, with empty records."""
        self._retention.forget()
        self.resumed = False
        self._same_folder = False  # the earlier process saved where this one saves
        self._given_up_since: float | None = None

    def write_yaml(self, filepath: Path | None, folder: str | None) -> None:
        """Write the best files and their scores as YAML to ``filepath``, or into ``folder``."""
        if filepath is None and folder is None:
            raise InvalidOption("filepath", filepath, "a path: dirpath is not known before training")
        path = os.path.join(folder or "", "best_k_models.yaml") if filepath is None else local_path(os.fspath(filepath))
        with open(path, "w", encoding="utf-8") as file:
            file.write(self._retention.as_yaml())

    def take_over(self, state: Mapping[str, Any], folder: str | None, *, fixed: bool) -> bool:
        """Take the records of a process that saved to ``state["dirpath"]``, where this one saves to ``folder``.

        A folder that was moved, as a whole, is recognised. Files in another folder count among the best where ``folder`` is a
        logger's; where it was ``fixed`` by the user, the best are counted anew and only the path of the best is taken. Returns
        whether all was.
        """
        state = self._recognised(state, folder)
        elsewhere = folder is not None and state.get("dirpath", folder) != folder
        if elsewhere and fixed:
            self._retention.best = state["best_model_path"]
            warn_user(
                f"The run that wrote the checkpoint saved to {state['dirpath']!r}, and this one saves to {folder!r}. "
                f"The files there are left alone, and the best are counted anew; only best_model_path is taken over.",
                PossibleUserWarning,
            )
            return False
        self.resumed, self._same_folder = True, not elsewhere
        self._retention.load_state_dict(state)
        if elsewhere:
            scores = self._retention.scores
            self._retention.scores = {path: scores[path] for path in self.store.worth_reading(scores)}
        return True

    def settle(self, source: str, folder: str, *, keeps_last: bool) -> None:
        """Finish what a crash left undone after ``source`` was written, from which the run goes on.

        Where the last is kept as a file of its own, it is renewed if it is older. Both paths are absolute, or URLs.
        """
        written = self.store.written_at(source)
        if written is None:
            return
        mine, last = within(source, folder), self._retention.last
        if mine and keeps_last and last:
            renewed = self.store.written_at(last)
            if renewed is None or renewed < written:
                self.store.duplicate(source, last)
        if mine or self._same_folder:
            self._given_up_since = written

    def is_given_up(self, path: str) -> bool:
        """Whether the run that was resumed wrote ``path`` after the point from which it goes on: it is about to do so again."""
        if self._given_up_since is None:
            return False
        written = self.store.written_at(path)
        return written is not None and written >= self._given_up_since

    def warn_if_not_empty(self, folder: str) -> None:
        """Say that files of others are in a local ``folder``."""
        if not is_remote(folder) and self.store.names(folder):
            rank_zero_warn_user(
                f"The checkpoint folder {folder!r} is not empty. What is in it stays; new files get other names where they must.",
                category=PossibleUserWarning,
            )

    def _recognised(self, state: Mapping[str, Any], folder: str | None) -> Mapping[str, Any]:
        """``state`` with its paths in ``folder``, where the whole folder was moved to it."""
        before = state.get("dirpath")
        if before is None or folder is None or before == folder or is_remote(before) or is_remote(folder):
            return state
        if self.store.exists(before):
            return state
        there = moved(state, before, folder)
        files = [path for path in (*there["best_k_models"], there["best_model_path"]) if path]
        return {**there, "dirpath": folder} if self.store.worth_reading(files) == files else state


def holds(writer: Any, path: str) -> bool:
    """Whether a checkpoint callback has ``path`` in its records: to keep, or to remove."""
    kept = (*getattr(writer, "best_k_models", ()), getattr(writer, "best_model_path", ""), getattr(writer, "last_model_path", ""))
    return path in kept or path in getattr(getattr(writer, "retention", None), "outdated", ())
