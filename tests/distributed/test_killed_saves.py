"""A process is killed in the middle of a sharded save: the newest whole checkpoint goes on, and nothing is left of the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import failing_job
import pytest
from real_processes import outcomes_together


def run(folder: Path, *words: str) -> list[Any]:
    folder.mkdir(exist_ok=True)
    return outcomes_together(2, failing_job.go_on, str(folder), "--strategy", "fsdp", *words)


def ended(folder: Path) -> tuple[Any, list[str]]:
    """How a run has ended, and which files its checkpoints are."""
    names = sorted(str(path.relative_to(folder)) for path in (folder / "kept").rglob("*"))
    return json.loads((folder / "ended.json").read_text()), names


def killed(folder: Path, rank: int, call: int) -> str:
    """The call in which ``rank`` was killed, or ``""``."""
    run(folder, "--fault", "saving", "--rank", str(rank), "--at", str(call))
    struck = folder / "failed"
    if not struck.exists():
        return ""
    where = struck.read_text()
    struck.unlink()
    return where


def test_a_save_that_was_killed_is_as_if_it_had_never_begun(tmp_path: Path) -> None:
    assert run(tmp_path / "alone") == [None, None]
    folder = tmp_path / "killed"
    folder.mkdir()
    assert killed(folder, 0, 8).endswith("/manifest.json")
    assert [name.name.endswith(".leyden-tmp") for name in (folder / "kept").iterdir()] == [True]
    assert killed(folder, 1, 2).endswith("/__1_0.distcp")
    assert {"epoch=0-step=2.ckpt", "last.ckpt"} <= {name.name for name in (folder / "kept").iterdir()}
    assert run(folder) == [None, None]
    assert ended(folder) == ended(tmp_path / "alone")


@pytest.mark.distributed
@pytest.mark.parametrize(("rank", "calls"), [(0, range(0, 150, 22)), (1, range(0, 14, 3)), (-1, range(1, 14, 6))])
def test_at_any_call(rank: int, calls: range, tmp_path: Path) -> None:
    assert run(tmp_path / "alone") == [None, None]
    expected = ended(tmp_path / "alone")
    for call in calls:
        folder = tmp_path / str(call)
        assert killed(folder, rank, call)
        assert run(folder) == [None, None]
        assert ended(folder) == expected, call
