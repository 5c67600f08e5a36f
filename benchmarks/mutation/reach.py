"""Which test reaches which line, and how long it takes: recorded once by coverage.py, and kept for as long as nothing changes."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mutation.choice import KnownTest
from mutation.tree import ROOT, Tree

OUTCOMES = "MUTANTS_OUTCOMES"
"""The environment variable that names the file in which the plugin of recorder.py leaves outcomes and seconds."""
KEPT = ROOT / ".mutants" / "reach.json"
MEASURED_IN = (
    "src",
    "tests",
    "examples",
    "benchmarks/mutation/recorder.py",
    "benchmarks/mutation/reach.py",
    "pyproject.toml",
    "constraints.txt",
)

# Every Python process that a test starts reads this too (coverage.py brings a .pth file for that), and so does a forked one:
# pytest says in the environment which test runs.
SETTINGS = """
[run]
include =
    {files}
data_file = {data}
parallel = true
context = ${{PYTEST_CURRENT_TEST-}}
patch = _exit, fork
disable_warnings = no-data-collected, module-not-measured, module-not-imported, already-imported, dynamic-conflict
"""


@dataclass
class Reach:
    """The lines of each file, each with the numbers of the tests that reach it."""

    key: str  # of everything but the files of tests
    hashes: dict[str, str]  # of the files of tests
    files: list[str]
    tests: list[tuple[str, float]]
    lines: dict[str, dict[str, list[int]]]
    unfit: list[str]  # tests that fail on the tree as it is

    def of(self, file: str, telling: list[set[int]]) -> list[KnownTest]:
        """The tests that reach one of the lines of the first set of which any test reaches one."""
        lines = self.lines.get(file, {})
        for candidates in telling:
            numbers = {number for line in candidates for number in lines.get(str(line), [])}
            if numbers:
                return [KnownTest(*self.tests[number]) for number in sorted(numbers)]
        return []

    def renewed(self, new: Reach) -> Reach:
        """This recording with what a later one of some files of tests says of them; ``new.hashes`` are of all that there are."""
        changed = {file for file, known in self.hashes.items() if new.hashes.get(file) != known}
        stays = [number for number, (name, _) in enumerate(self.tests) if file_of(name) not in changed]
        old = {number: place for place, number in enumerate(stays)}
        lines = {
            file: {
                line: [old[number] for number in self.lines[file].get(line, []) if number in old]
                + [number + len(stays) for number in new.lines.get(file, {}).get(line, [])]
                for line in {**self.lines[file], **new.lines.get(file, {})}
            }
            for file in self.lines
        }
        unfit = [name for name in self.unfit if file_of(name) not in changed] + new.unfit
        return Reach(self.key, new.hashes, self.files, [self.tests[number] for number in stays] + new.tests, lines, unfit)


def reach_of(files: Sequence[str]) -> Reach:
    """What is kept of ``files`` for the working tree as it is now; what has changed since is recorded anew."""
    key, hashes = fingerprint(), tests_here()
    told = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if told.get("key") == key and set(files) <= set(told["files"]):
        kept = Reach(**told)
        if kept.hashes == hashes:
            return kept
        changed = [file for file in hashes if kept.hashes.get(file) != hashes[file]]
        print(f"recording which test reaches which line, in files that have changed: {len(changed)}", file=sys.stderr, flush=True)
        reach = kept.renewed(record(kept.files, key, hashes, changed))
    else:
        print("recording which test reaches which line: the whole test suite runs once", file=sys.stderr, flush=True)
        reach = record(files, key, hashes, ["tests"])
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps(asdict(reach)))
    return reach


def file_of(test: str) -> str:
    return test.partition("::")[0]


def tests_here() -> dict[str, str]:
    """The files of tests, each with a hash of what it says."""
    return {
        str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
    }


def fingerprint() -> str:
    """A hash of all that decides which test reaches which line, but for the files of tests."""
    found = hashlib.sha256(sys.version.encode())
    for name in MEASURED_IN:
        for path in sorted([ROOT / name, *(ROOT / name).rglob("*")]):
            test = path.name.startswith("test_") and path.is_relative_to(ROOT / "tests")
            if path.is_file() and path.suffix != ".pyc" and not test:
                found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def record(files: Sequence[str], key: str, hashes: dict[str, str], paths: Sequence[str]) -> Reach:
    """Run tests, those in ``paths``, in a copy of the tree under coverage.py."""
    if not paths:
        return Reach(key, hashes, list(files), [], {}, [])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = Tree(folder)
        settings, outcomes, data = folder / "coveragerc", folder / "outcomes.json", folder / "data"
        data.mkdir()
        measured = "\n    ".join(str(tree.folder / file) for file in files)
        settings.write_text(SETTINGS.format(files=measured, data=data / "part"))
        done = tree.pytest(
            ["-p", "mutation.recorder", "-n", "2", "--dist", "worksteal", *paths],
            environment={"COVERAGE_PROCESS_START": str(settings), OUTCOMES: str(outcomes)},
        )
        if done.code not in (0, 1):
            raise SystemExit(f"the tests could not be run:\n{done.output[-4000:]}")
        told = json.loads(outcomes.read_text())
        tests = [(test, seconds) for test, seconds in told["seconds"].items() if test not in told["unfit"]]
        return Reach(key, hashes, list(files), tests, merged(data, tree.folder, [test for test, _ in tests]), told["unfit"])


def merged(data: Path, root: Path, tests: Sequence[str]) -> dict[str, dict[str, list[int]]]:
    """The lines of each file that the parts of a recording tell of, with the tests that reached them."""
    from coverage import CoverageData
    from coverage.exceptions import CoverageException

    number_of = {test: number for number, test in enumerate(tests)}
    found: dict[str, dict[str, set[int]]] = {}
    for part in data.iterdir():
        recorded = CoverageData(str(part))
        try:
            recorded.read()
            for file in recorded.measured_files():
                lines = found.setdefault(str(Path(file).relative_to(root)), {})
                for line, contexts in recorded.contexts_by_lineno(file).items():
                    numbers = {number_of[test] for test in map(named_in, contexts) if test in number_of}
                    lines.setdefault(str(line), set()).update(numbers)
        except CoverageException:  # a process that was killed while it wrote
            continue
        finally:
            recorded.close()
    return {file: {line: sorted(numbers) for line, numbers in lines.items()} for file, lines in found.items()}


def named_in(context: str) -> str:
    """The test that a context names: the plugin's is its name, pytest's ends with the phase."""
    for phase in (" (setup)", " (call)", " (teardown)"):
        context = context.removesuffix(phase)
    return context
