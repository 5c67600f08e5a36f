"""Kill processes of a job of two, or all of them, start it again, and compare it with a run left alone.

    python benchmarks/soak_distributed.py                       # 12 runs under ddp and 12 under fsdp, 3 kills each
    python benchmarks/soak_distributed.py --strategy fsdp       # with checkpoints in shards, and kills while they are written
    python benchmarks/soak_distributed.py --runs 40 --seed 7    # more of them, and other moments

The job stands in tests/failing_job.py: dropout, noise, shuffling, accumulation windows, Adam, checkpoints every two
steps, which are files under ddp and folders of shards under fsdp. Before a random batch, or at a random call that writes a
checkpoint in shards, a random process, or each, is ended by SIGKILL or SIGTERM; then the same command is given again.
When the job has ended, the bits of its weights, its steps and its loss have to be those of the run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import failing_job  # type: ignore[import-not-found]  # found above
from real_processes import outcomes_together  # type: ignore[import-not-found]  # found above

BATCHES = 24
CALLS = (150, 14)
"""What each process asks of its disk for the sharded checkpoints of a whole run, before the last one is done."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), action="append")
    asked = parser.parse_args()
    return 1 if sum([soak(strategy, asked) for strategy in asked.strategy or ("ddp", "fsdp")]) else 0


def soak(strategy: str, asked: argparse.Namespace) -> int:
    """Kill runs under ``strategy``; how many of them came to other bits."""
    rng, began = random.Random(asked.seed), time.perf_counter()
    struck: Counter[str] = Counter()
    different = []
    faults = ("killed", "killed", "terminated") if strategy == "ddp" else ("killed", "saving", "saving", "terminated")
    with tempfile.TemporaryDirectory(prefix="leyden-soak-") as root:
        expected = ended(run(Path(root, "alone"), strategy))
        for number in range(asked.runs):
            folder, kills = Path(root, str(number)), []
            for part in range(asked.kills):
                fault, rank = rng.choice(faults), rng.choice((-1, 0, 1))
                most = CALLS[max(0, rank)] if fault == "saving" else BATCHES
                at = most * (part + rng.random()) / asked.kills if fault != "saving" else most * rng.random() / asked.kills
                kills.append((fault, rank, int(at)))
                run(folder, strategy, "--fault", fault, "--rank", str(rank), "--at", str(int(at)))
                struck[f"{fault} {'all' if rank < 0 else rank}"] += (folder / "failed").exists()
                (folder / "failed").unlink(missing_ok=True)
            found = ended(run(folder, strategy))
            if found != expected or kept(folder) != kept(Path(root, "alone")):
                different.append(f"{kills}: {found} and {kept(folder)} instead of {expected}")
            print(".", end="", file=sys.stderr, flush=True)
    print(f"\n{strategy}: {sum(struck.values())} kills in {asked.runs} runs: {dict(sorted(struck.items()))}.")
    print(f"Same bits: {asked.runs - len(different)} of {asked.runs}. {time.perf_counter() - began:.0f} s.")
    print(*different, sep="\n")
    return len(different)


def run(folder: Path, strategy: str, *words: str) -> Path:
    folder.mkdir(exist_ok=True)
    outcomes = outcomes_together(2, failing_job.go_on, str(folder), "--strategy", strategy, *words)
    if not words and any(isinstance(outcome, BaseException | int) for outcome in outcomes):
        raise SystemExit(f"The job fails by itself: {outcomes}")
    return folder


def kept(folder: Path) -> list[str]:
    """Names of checkpoints: nothing may be left of those that were broken off."""
    return sorted(os.listdir(folder / "kept"))


def ended(folder: Path) -> Any:
    return json.loads((folder / "ended.json").read_text())


if __name__ == "__main__":
    sys.exit(main())
