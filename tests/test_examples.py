"""The examples run as they stand, each in a process of its own, and reach what they promise."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def shown_by(example: str, *options: str) -> str:
    """What an example prints. It fails the test if it fails."""
    command = [sys.executable, *options, str(EXAMPLES / example)]
    # One thread: beside other tests, more threads than cores wait for each other.
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def told(shown: str, label: str) -> str:
    """The word that an example prints after a label."""
    found = re.search(rf"^{label}\s+(\S+)", shown, re.MULTILINE)
    assert found, f"{label!r} is not in:\n{shown}"
    return found[1]


def test_digits_reaches_its_accuracy_and_says_where_the_files_lie(own_folder: Path) -> None:
    shown = shown_by("digits.py", "-W", "error")
    assert float(told(shown, "Test accuracy")) >= 0.97
    for label in ("Best checkpoint", "Last checkpoint", "Metrics"):
        assert (own_folder / told(shown, label)).is_file(), label
    assert "tensorboard" in shown
    assert [entry.name for entry in own_folder.iterdir()] == ["leyden_logs"]


def test_the_tutorial_of_2020_runs(own_folder: Path) -> None:
    shown = shown_by("tutorial_2020.py")
    scores = [float(score) for score in re.findall(r"test_acc\W+([\d.]+)", shown)]
    assert len(scores) >= 3, shown
    assert all(score > 0.9 for score in scores[-3:])


@pytest.mark.parametrize("example", sorted(file.name for file in EXAMPLES.glob("*.py")))
def test_an_example_names_no_path_of_a_machine(example: str) -> None:
    assert not re.search(r"[\"'](/|~|[A-Z]:\\)", (EXAMPLES / example).read_text())
