"""Copies of the working tree, in which sources are changed and tests are run."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GIBIBYTES = 6
"""Memory that a process under test may have: a mutant that collects without end is ended by that."""


@dataclass(frozen=True)
class Done:
    """How a command ended; ``code`` is ``None`` where the time was over."""

    code: int | None
    output: str


class Tree:
    """A copy of the working tree in ``folder``, without what is hidden or generated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        shutil.copytree(ROOT, self.folder, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))

    @contextlib.contextmanager
    def changed(self, file: str, text: str) -> Iterator[None]:
        """The tree with another text in one file."""
        path = self.folder / file
        before = path.read_text()
        path.write_text(text)
        try:
            yield
        finally:
            path.write_text(before)

    def pytest(self, options: Sequence[str], limit: float | None = None, environment: Mapping[str, str] | None = None) -> Done:
        """Run tests of this tree on the sources of this tree, for at most ``limit`` seconds.

        No bytecode is written: a change within a second that leaves a file its length would go unseen behind it.
        """
        paths = os.pathsep.join(str(self.folder / name) for name in ("src", "benchmarks"))
        with tempfile.TemporaryFile("w+", errors="replace") as output:  # a pipe stays open for as long as what a test has started
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=no", *options],
                cwd=self.folder,
                env={
                    **os.environ,
                    "PYTHONPATH": paths,
                    "TMPDIR": str(self.temporary),
                    "OMP_NUM_THREADS": "1",
                    **(environment or {}),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            if hasattr(resource, "prlimit"):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (GIBIBYTES << 30, GIBIBYTES << 30))
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            output.seek(0)
            return Done(code, output.read())
