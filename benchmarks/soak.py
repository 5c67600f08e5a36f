"""Kill a training job a hundred times and more, start it again with the same command, and compare it with a run left alone.

    python benchmarks/soak.py                        # every configuration, 5 kills each
    python benchmarks/soak.py --kills 20 --seed 7    # other moments, and more of them
    python benchmarks/soak.py --only stateful        # the configurations whose name has the word in it

The job stands in tests/guarantees/kill_job.py: dropout, shuffling, random augmentation, accumulation, a scheduler that steps
with the optimizer, validation inside epochs and windows, two loggers, the best checkpoints and the last. A signal strikes at a
random place (in the middle of a write, between a write and a removal, in a batch, in validation, at teardown, at any Python
call), or from outside after a random time. When the job has ended, the bits of its weights, optimizer and scheduler, its
history, metrics.csv byte by byte, every scalar in its event files and the names in its folders have to be those of the run
that nobody killed. Each attempt is a process of its own, forked from one that has imported torch and started nothing.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "guarantees"))

from kill_job import Job, Kill, Outcome, Runner, outcome, survive  # type: ignore[import-not-found]  # found above

AT_ONCE = 2  # jobs that run side by side
MOST_IN_A_ROW = 4  # kills of one run
SIGNALS = [signal.SIGKILL] * 8 + [signal.SIGTERM, signal.SIGINT]


@dataclass
class Result:
    """What happened to one configuration."""

    name: str
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    restarts: int = 0
    places: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)


def configurations() -> dict[str, dict[str, Any]]:
    """The jobs by name: all combinations of what matters, and some that are special."""
    found: dict[str, dict[str, Any]] = {}
    for data in ("map", "iterable", "stateful"):
        for workers in (0, 2):
            for rhythm in ("steps", "epoch"):
                for asynchronous in (False, True):
                    written = "async" if asynchronous else "sync"
                    when = "every 3 steps" if rhythm == "steps" else "epoch end"
                    name = f"{data}, {workers} workers, {when}, {written}"
                    found[name] = {"data": data, "workers": workers, "rhythm": rhythm, "asynchronous": asynchronous}
    large = {"padding": 16_000_000}
    found["64 MB checkpoints, sync"] = large
    found["64 MB checkpoints, async"] = {**large, "asynchronous": True}
    found["two ModelCheckpoints, two folders"] = {"writers": "two"}
    found["two ModelCheckpoints, one folder"] = {"writers": "two", "folders": "numbered"}
    found["folders by number"] = {"folders": "numbered"}
    found["rows of each validation batch"] = {"validation_rows": True}
    for workers in (0, 2):
        found[f"state of all kinds, {workers} workers"] = {"kinds": "all", "workers": workers}
    found["exponential moving average"] = {"rewrites": "ema"}
    for workers in (0, 2):
        found[f"finetuned, {workers} workers"] = {"kinds": "finetuned", "workers": workers}
    found["stochastic weight averaging"] = {"rewrites": "swa"}
    found["pruned on the way"] = {"rewrites": "prune"}
    found["no accumulation, epoch end"] = {"accumulate": 1, "rhythm": "epoch"}
    return found


def moments(rng: random.Random, reached: dict[str, int], seconds: float, calls: int) -> Iterator[Kill]:
    """Where to strike next, in one run."""
    places = sorted(reached)
    for _ in range(rng.randint(1, MOST_IN_A_ROW)):
        number = rng.choice(SIGNALS)
        kind = rng.random()
        if kind < 0.55:
            place = rng.choice(places)
            yield Kill(place, rng.randint(1, max(1, reached[place] // rng.choice((1, 2, 3)))), number=number)
        elif kind < 0.75:
            yield Kill("call", rng.randint(1, calls), number=number)
        else:
            yield Kill(seconds=rng.uniform(0.0, seconds), number=number)


def soak(name: str, settings: dict[str, Any], kills: int, seed: int, root: Path, runner: Runner) -> Result:
    """One configuration, until it has been killed often enough."""
    result = Result(name)
    began = time.perf_counter()
    alone = Job(str(root / "alone"), **settings)
    if runner.start(alone, Kill("call", 10**12)):  # which counts, and never strikes
        raise SystemExit(f"{name} fails by itself: see {root / 'alone' / 'output.txt'}")
    seconds = time.perf_counter() - began
    expected: Outcome = outcome(alone)
    calls = expected.ended["calls"]
    rng = random.Random(f"{name} {seed}")
    while sum(result.kills.values()) < kills:
        result.runs += 1
        job = Job(str(root / f"run {result.runs}"), **settings)
        struck: list[Kill] = []

        def noted(struck: list[Kill] = struck) -> Iterator[Kill]:
            for kill in moments(rng, expected.ended["reached"], seconds, calls):
                struck.append(kill)
                yield kill

        try:
            got = survive(runner, job, noted())
        except RuntimeError as error:
            result.differences.append(f"{error} after {struck}")
            continue
        result.restarts += got.restarts
        for kill in struck[: got.kills]:
            result.kills[signal.Signals(kill.number).name] += 1
            result.places[kill.place or "from outside"] += 1
        different = expected.differences(got)
        if different:
            result.differences.append(f"{struck}: " + "; ".join(different))
        else:
            shutil.rmtree(job.folder)
    if not result.differences:
        shutil.rmtree(root)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5, help="at least so many kills of each configuration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="configurations whose name contains one of these")
    asked = parser.parse_args()
    known = configurations()
    strange = [word for word in asked.only if not any(word in name for name in known)]
    if strange:
        parser.error(f"no configuration's name contains {', '.join(map(repr, strange))}. There are: {'; '.join(known)}")
    chosen = {name: settings for name, settings in known.items() if not asked.only or any(word in name for word in asked.only)}
    root = Path(tempfile.mkdtemp(prefix="leyden-soak-"))
    began = time.perf_counter()
    mine = threading.local()
    runners: list[Runner] = []

    def work(numbered: tuple[int, tuple[str, dict[str, Any]]]) -> Result:
        number, (name, settings) = numbered
        if not hasattr(mine, "runner"):
            mine.runner = Runner()
            runners.append(mine.runner)
        found = soak(name, settings, asked.kills, asked.seed, root / str(number), mine.runner)
        print(".", end="", file=sys.stderr, flush=True)
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(work, enumerate(chosen.items())))
    for runner in runners:
        runner.__exit__()
    print(file=sys.stderr)
    report(results, time.perf_counter() - began)
    wrong = [result for result in results if result.differences]
    for result in wrong:
        print(f"\n{result.name}:", *result.differences, sep="\n  ", file=sys.stderr)
    if not wrong:
        shutil.rmtree(root, ignore_errors=True)
    return 1 if wrong else 0


def report(results: list[Result], seconds: float) -> None:
    import torch

    print("| configuration | kills | by SIGKILL | by SIGTERM or Ctrl-C | runs | same bits |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for result in results:
        kills, hard = sum(result.kills.values()), result.kills["SIGKILL"]
        same = "yes" if not result.differences else f"**no** ({len(result.differences)} runs)"
        print(f"| {result.name} | {kills} | {hard} | {kills - hard} | {result.runs} | {same} |")
    kills, hard = sum(sum(r.kills.values()) for r in results), sum(r.kills["SIGKILL"] for r in results)
    exact = sum(r.runs - len(r.differences) for r in results)
    runs = sum(r.runs for r in results)
    print(f"| **all** | **{kills}** | {hard} | {kills - hard} | {runs} | {exact} of {runs} |")
    places: Counter[str] = sum((r.places for r in results), Counter())
    print(f"\nStruck: {', '.join(f'{place} {count}' for place, count in places.most_common())}.")
    print(f"{seconds:.0f} s, {AT_ONCE} jobs at a time; Python {platform.python_version()}, torch {torch.__version__}.")


if __name__ == "__main__":
    sys.exit(main())
