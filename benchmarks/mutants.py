"""Tests that bite: break the code a little, at random, and see whether a test notices.

    python benchmarks/mutants.py                                   # 60 mutants, the same every time
    python benchmarks/mutants.py --sample 200 --seed 7
    python benchmarks/mutants.py src/leyden/loops/fit.py --sample 30

A mutant is the source with one small change: an argument left out, a condition negated, a number plus one. What cannot change
behaviour is left out, and named: types, docstrings, texts of errors and warnings, and what benchmarks/equivalent_mutants.txt
lists. A mutant's tests are those that reach its line. They run in a copy of the tree, those of many files in turn and quick ones
first, until one fails. Exit status 1 where fewer than --least percent are caught.
"""

from __future__ import annotations

import argparse
import os
import platform
import queue
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from measuring import table
from mutation.choice import KnownTest, Mutant, choose, draw, read_equivalents
from mutation.mutate import Mutants
from mutation.reach import Reach, reach_of
from mutation.source import Source
from mutation.tree import ROOT, Tree
from mutation.trial import TIME, Verdict, failures, try_out

MUTATED = (
    "src/leyden/loops/*.py",
    "src/leyden/state/progress.py",
    "src/leyden/state/parts.py",
    "src/leyden/state/snapshot.py",
    "src/leyden/data/position.py",
    "src/leyden/checkpoint/durable.py",
)
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.txt"
AT_ONCE = 2


def main() -> int:
    task = arguments()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores Ctrl-C, and so would the tests
    began = time.monotonic()
    usual = sorted({str(path.relative_to(ROOT)) for pattern in MUTATED for path in ROOT.glob(pattern)})
    files = task.files or usual
    reach = reach_of(sorted({*usual, *files}))
    sources = {file: Source((ROOT / file).read_text()) for file in files}
    written = {file: Mutants(source.text) for file, source in sources.items()}
    mutants, left_out = draw(sources, written, read_equivalents(EQUIVALENT.read_text()), task.sample, task.seed)
    print(f"{len(mutants)} of {sum(map(len, written.values()))} mutants of {len(files)} files", file=sys.stderr)

    def tests_for(mutant: Mutant) -> list[KnownTest]:
        reaching = reach.of(mutant.file, sources[mutant.file].telling_lines(mutant.line))
        return choose(reaching, mutant.file, task.most_tests, task.most_seconds)

    verdicts = try_all([(mutant, tests_for(mutant)) for mutant in mutants])
    report(files, reach, left_out, verdicts, time.monotonic() - began)
    caught = sum(verdict.by is not None for verdict in verdicts)
    return 0 if 100 * caught >= task.least * len(verdicts) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="sources to mutate, from the root of the repository")
    parser.add_argument("--sample", type=int, default=60, help="mutants to try (60)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (0)")
    parser.add_argument("--least", type=float, default=85, help="percent that have to be caught (85)")
    parser.add_argument("--most-tests", type=int, default=400, help="tests of one mutant (400)")
    parser.add_argument("--most-seconds", type=float, default=60, help="recorded seconds of the tests of one mutant (60)")
    return parser.parse_args()


def try_all(trials: list[tuple[Mutant, list[KnownTest]]]) -> list[Verdict]:
    """Try mutants, a few side by side, each in a tree that no other uses meanwhile."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(AT_ONCE) as threads:
        trees: queue.Queue[Tree] = queue.Queue()
        for number in range(AT_ONCE):
            trees.put(Tree(Path(name, str(number))))

        def trial(mutant: Mutant, tests: list[KnownTest]) -> Verdict:
            tree, began = trees.get(), time.monotonic()
            verdict = try_out(mutant, tests, tree)
            trees.put(tree)
            told = f"caught by {verdict.by}" if verdict.by else f"survived {verdict.tests} tests"
            print(f"{time.monotonic() - began:5.1f} s  {mutant.file}:{mutant.line}  {told}", file=sys.stderr, flush=True)
            return verdict

        verdicts = list(threads.map(lambda pair: trial(*pair), trials))
        doubtful = failures(sorted({verdict.by for verdict in verdicts if verdict.by and "::" in verdict.by}), trees.get())
        for name in doubtful:
            print(f"{name} fails without a mutant too: what it caught counts as survived", file=sys.stderr)
        return [replace(verdict, by=None) if verdict.by in doubtful else verdict for verdict in verdicts]


def report(files: list[str], reach: Reach, left_out: Counter[str], verdicts: list[Verdict], seconds: float) -> None:
    """Who survived, what was left out, and how many were caught."""
    survived = sorted((verdict for verdict in verdicts if verdict.by is None), key=lambda one: (one.mutant.file, one.mutant.line))
    rows = []
    for verdict in survived:
        mutant, shown = verdict.mutant, (verdict.mutant.change.before, verdict.mutant.change.after)
        before, after = (f"`{text}`".replace("|", "\\|") for text in shown)
        rows.append([mutant.file, str(mutant.line), before, after, str(verdict.tests)])
    if rows:
        table(["survivor", "line", "before", "after", "tests run"], rows)
        print()
    if left_out:
        table(["left out", "mutants"], [[why, str(count)] for why, count in left_out.most_common()])
        print()
    tried = Counter(verdict.mutant.file for verdict in verdicts)
    caught = tried - Counter(verdict.mutant.file for verdict in survived)
    rows = [[file, str(tried[file]), str(caught[file])] for file in files if tried[file]]
    table(["file", "mutants", "caught"], [*rows, ["**all**", str(tried.total()), str(caught.total())]])
    percent = 100 * caught.total() / tried.total() if verdicts else 100.0
    late = sum(verdict.by == TIME for verdict in verdicts)
    print(
        f"\n{percent:.0f} % caught, {late} of them by the time limit. Not used: {len(reach.unfit)} tests that fail as things are."
    )
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {seconds:.0f} s.")


if __name__ == "__main__":
    sys.exit(main())
