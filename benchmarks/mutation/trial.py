"""The trial of a mutant: its tests run on it, the first ones by themselves, until one fails or the time is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mutation.choice import KnownTest, Mutant
from mutation.tree import Done, Tree

FIRST = 25
"""Tests of the first round: most mutants are caught by them, and few files of tests are imported for them."""
TIME = "the time limit"
START, SLOWER = 30.0, 5.0
"""The time limit: seconds to start, and how many times longer than recorded the tests may take."""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the number of its tests, and what caught it, or nothing."""

    mutant: Mutant
    tests: int
    by: str | None


def try_out(mutant: Mutant, tests: Sequence[KnownTest], tree: Tree) -> Verdict:
    """Run tests on a mutant, in a tree."""
    with tree.changed(mutant.file, mutant.text):
        by = next(filter(None, (what_fails(part, tree) for part in (tests[:FIRST], tests[FIRST:]) if part)), None)
    return Verdict(mutant, len(tests), by)


def what_fails(tests: Sequence[KnownTest], tree: Tree) -> str | None:
    """What fails first when these tests run, or nothing: a test, a file of tests that cannot be read, the time limit, Python."""
    names = [test.name for test in tests]
    done = tree.pytest(["-x", *names], START + SLOWER * sum(test.seconds for test in tests))
    gone = {line.rpartition("/tree/")[2] for line in done.output.splitlines() if line.startswith("ERROR: not found: ")}
    if gone:  # cases that a file of tests draws from the code itself are others in a mutant: the rest can be asked
        left = [test for test in tests if test.name.partition("[")[0] not in gone]
        return what_fails(left, tree) if left and len(left) < len(tests) else None
    if done.code == 0:
        return None
    if done.code is None:
        return TIME
    found = failed_in(done, [*names, *sorted({str(test.file) for test in tests})])
    if not found and done.code == 4 and ("while loading conftest" in done.output or "warning configuration" in done.output):
        return "importing it"  # the package itself does not load any more, so no test can be asked
    if not found and done.code in (4, 5):  # pytest was asked for what is not there: our mistake, nothing that a test noticed
        raise SystemExit(f"pytest ended with {done.code}, and no test had failed:\n{done.output[-4000:]}")
    return found[0] if found else f"exit status {done.code}"


def failures(names: Sequence[str], tree: Tree) -> list[str]:
    """Which of these tests fail in a tree."""
    return failed_in(tree.pytest(names), names) if names else []


def failed_in(done: Done, names: Sequence[str]) -> list[str]:
    """Those of the tests of which pytest says that they failed; what it says after a name is its reason."""
    told = [line.partition(" ")[2] for line in done.output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [name for name in names if any(f"{text} - ".startswith(f"{name} - ") for text in told)]
