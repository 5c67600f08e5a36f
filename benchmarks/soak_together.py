"""Features switched on together at random, broken off at random hooks and given again, beside runs left alone: the same bits?

    python benchmarks/soak_together.py                        # 300 runs, 1 to 3 breaks each
    python benchmarks/soak_together.py --runs 2000 --seed 7   # more of them, and others
    python benchmarks/soak_together.py --only 41              # that one run, and how it differs
    python benchmarks/soak_together.py --processes 2 --runs 40     # under ddp: one of two processes breaks off, or both

The job stands in tests/together_job.py: some forty features (kinds of data, optimizers, schedules, callbacks, what is logged,
limits of the Trainer), each drawn by itself. A run is broken off by an exception, SIGTERM or Ctrl-C in any hook. When it has
ended, weights, optimizers, schedulers, rows, history and best checkpoints have to be those of the run that nobody broke off.
Of the processes but the first the running statistics of batch norms and the history are left out: they resume with the first's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import torch
from kit import differences  # type: ignore[import-not-found]  # found above
from together_job import ENDS, FEATURES, Breaks, Features, ended, ended_together  # type: ignore[import-not-found]  # found above

from leyden.errors import LeydenError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of a run")
    parser.add_argument("--processes", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("leyden").setLevel(logging.ERROR)
    came_to: Counter[str] = Counter()
    broken, began = 0, time.perf_counter()
    for number in range(asked.runs) if asked.only is None else [asked.only]:
        features, breaks = drawn(asked.seed, number)
        outcome, said = tried(features, breaks, asked.processes)
        came_to[outcome] += 1
        broken += len(breaks) if outcome == "the same bits" else 0
        if outcome not in ("the same bits", "features that exclude each other") or asked.only is not None:
            print(f"run {number}: {outcome}: {said}\n  {features}\n  broken off: {breaks}")
    print(f"{sum(came_to.values())} runs in {time.perf_counter() - began:.0f} s, broken off up to {broken} times:")
    for outcome, count in came_to.most_common():
        print(f"  {count} {outcome}")
    return 1 if came_to["other bits"] + came_to["an error"] else 0


def drawn(seed: int, number: int) -> tuple[Features, Breaks]:
    rng = random.Random(f"{seed} {number}")
    features = {name: rng.choice(values) for name, values in FEATURES.items()}
    return features, [(rng.randint(1, 160), rng.choice(ENDS)) for _ in range(rng.randint(1, 3))]


def tried(features: Features, breaks: Breaks, processes: int) -> tuple[str, str]:
    """What a run came to, and what there is to say of it."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            expected = end(features, [], processes)
        except LeydenError as error:
            return "features that exclude each other", str(error)
        except Exception as error:
            return "an error", repr(error)
        try:
            found = end(features, breaks, processes)
        except Exception as error:
            return "an error", f"once it was broken off: {error!r}"
    different = differences(expected, found)
    return ("other bits", "; ".join(different)[:500]) if different else ("the same bits", "")


def end(features: Features, breaks: Breaks, processes: int) -> Any:
    """What the run leaves in each process. With several of them each has as many samples as one that is alone."""
    if processes == 1:
        return ended(features, breaks)
    rng = random.Random(str(breaks))
    by_ranks = [(at, how, rng.randrange(-1, processes)) for at, how in breaks]
    shared = {**features, "strategy": "ddp", "samples": processes * features["samples"]}
    return ended_together(shared, by_ranks, processes)


if __name__ == "__main__":
    sys.exit(main())
