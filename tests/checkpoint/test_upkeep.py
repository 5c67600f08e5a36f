"""Upkeep: the files of an earlier process are recognised, put in order, and not mixed up with new ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.checkpoint.asynchronous import AsyncCheckpointIO
from leyden.checkpoint.retention import Retention
from leyden.checkpoint.store import FileStore
from leyden.checkpoint.upkeep import Upkeep
from leyden.errors import PossibleUserWarning


def put(path: Path, at: float) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(path.name)
    os.utime(path, (at, at))
    return str(path)


def records(folder: Path, *names: str) -> dict[str, Any]:
    """The state of a writer that has kept these files in ``folder``, the best last."""
    kept = Retention(-1)
    for cost, name in enumerate(reversed(names)):
        kept.offer(str(folder / name), torch.tensor(float(cost)))
    kept.renew_last(str(folder / "last"))
    return {**kept.state_dict(), "dirpath": str(folder)}


def test_the_same_folder(tmp_path: Path) -> None:
    kept = Retention(-1)
    upkeep = Upkeep(kept)
    assert upkeep.take_over(records(tmp_path, "a", "b"), str(tmp_path), fixed=True)
    assert upkeep.resumed
    assert kept.best == str(tmp_path / "b")
    upkeep.forget()
    assert (upkeep.resumed, kept.best) == (False, "")


def test_a_folder_of_the_logger_s_before_counts_with_what_is_there(tmp_path: Path) -> None:
    kept = Retention(-1)
    put(tmp_path / "before" / "a", 1)
    assert Upkeep(kept).take_over(records(tmp_path / "before", "a", "b"), str(tmp_path / "now"), fixed=False)
    assert list(kept.scores) == [str(tmp_path / "before" / "a")]


def test_another_folder_of_the_user_s_begins_anew(tmp_path: Path) -> None:
    kept = Retention(-1)
    upkeep = Upkeep(kept)
    (tmp_path / "before").mkdir()
    with pytest.warns(PossibleUserWarning, match="only best_model_path is taken over") as caught:
        assert not upkeep.take_over(records(tmp_path / "before", "a"), str(tmp_path / "now"), fixed=True)
    assert len(caught) == 1
    assert (kept.best, kept.scores, upkeep.resumed) == (str(tmp_path / "before" / "a"), {}, False)


@pytest.mark.parametrize("complete", [True, False])
def test_a_folder_that_was_moved_as_a_whole(tmp_path: Path, complete: bool) -> None:
    kept = Retention(-1)
    for name in ("a", "b") if complete else ("b",):
        put(tmp_path / "now" / name, 1)
    assert Upkeep(kept).take_over(records(tmp_path / "before", "a", "b"), str(tmp_path / "now"), fixed=False)
    assert (kept.best == str(tmp_path / "now" / "b")) is complete


@pytest.mark.parametrize(("last_at", "expected"), [(9.0, "source"), (None, "source"), (11.0, "last"), (10.0, "last")])
def test_a_last_that_is_older_than_what_is_resumed_from_is_renewed(tmp_path: Path, last_at: float | None, expected: str) -> None:
    kept = Retention(1)
    upkeep = Upkeep(kept)
    upkeep.store = FileStore(checkpoint_io=AsyncCheckpointIO())  # nothing is on its way when a run begins
    source = put(tmp_path / "source", 10)
    if last_at is not None:
        put(tmp_path / "last", last_at)
    upkeep.take_over(records(tmp_path), str(tmp_path), fixed=True)
    upkeep.settle(source, str(tmp_path), keeps_last=True)
    assert (tmp_path / "last").read_text() == expected


def test_what_is_not_kept_or_lies_elsewhere_is_not_renewed(tmp_path: Path) -> None:
    kept = Retention(1)
    upkeep = Upkeep(kept)
    folder = tmp_path / "kept"
    upkeep.take_over(records(folder), str(folder), fixed=True)
    upkeep.settle(put(tmp_path / "source", 10), str(folder), keeps_last=True)
    upkeep.settle(put(folder / "source", 10), str(folder), keeps_last=False)
    upkeep.settle(str(folder / "gone"), str(folder), keeps_last=True)
    assert os.listdir(folder) == ["source"]


def test_newer_files_are_those_of_the_future_that_is_given_up(tmp_path: Path) -> None:
    upkeep = Upkeep(Retention(1))
    source, older, newer = (put(tmp_path / name, at) for name, at in (("source", 10), ("older", 9), ("newer", 11)))
    assert not upkeep.is_given_up(newer)
    upkeep.settle(source, str(tmp_path), keeps_last=False)
    assert [upkeep.is_given_up(path) for path in (older, newer, str(tmp_path / "gone"))] == [False, True, False]
    another = Upkeep(Retention(1))
    another.settle(source, str(tmp_path / "other"), keeps_last=False)
    assert not another.is_given_up(newer)


def test_a_folder_with_files_of_others_is_said(tmp_path: Path) -> None:
    upkeep = Upkeep(Retention(1))
    upkeep.warn_if_not_empty(str(tmp_path))
    upkeep.warn_if_not_empty("memory://somewhere")
    put(tmp_path / "a", 1)
    with pytest.warns(PossibleUserWarning, match="is not empty"):
        upkeep.warn_if_not_empty(str(tmp_path))
