"""Kill processes of a job of two, or all of them, start it again, and compare it with a run left alone.

    python benchmarks/soak_distributed.py                       # 12 runs, 3 kills each
    python benchmarks/soak_distributed.py --runs 40 --seed 7    # more of them, and other moments

The job stands in tests/distributed/failing_job.py: dropout, noise, shuffling, accumulation windows, Adam, checkpoints every two
steps. Before a random batch a random process, or each, is ended by SIGKILL or SIGTERM; then the same command is given again.
When the job has ended, the bits of its weights, its steps and its loss have to be those of the run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from real_processes import outcomes_together  # type: ignore[import-not-found]  # found above

ROOT = Path(__file__).resolve().parent.parent
BATCHES = 24


def job(folder: str, *words: str) -> None:
    """The script, in one of the processes."""
    sys.path.insert(0, str(ROOT / "tests" / "distributed"))
    import failing_job  # type: ignore[import-not-found]  # found above

    sys.argv = ["failing_job.py", folder, "--goes-on", *words]
    try:
        failing_job.main()
    except SystemExit as error:
        raise RuntimeError(f"exit {error.code}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng, began = random.Random(asked.seed), time.perf_counter()
    struck: Counter[str] = Counter()
    different = []
    with tempfile.TemporaryDirectory(prefix="leyden-soak-") as root:
        expected = ended(run(Path(root, "alone")))
        for number in range(asked.runs):
            folder, kills = Path(root, str(number)), []
            at = sorted(rng.sample(range(BATCHES), asked.kills))
            for batch in at:
                fault, rank = rng.choice(("killed", "killed", "terminated")), rng.choice((-1, 0, 1))
                kills.append((fault, rank, batch))
                run(folder, "--fault", fault, "--rank", str(rank), "--at", str(batch))
                struck[f"{fault} {'all' if rank < 0 else rank}"] += (folder / "failed").exists()
                (folder / "failed").unlink(missing_ok=True)
            found = ended(run(folder))
            if found != expected:
                different.append(f"{kills}: {found} instead of {expected}")
            print(".", end="", file=sys.stderr, flush=True)
    print(f"\n{sum(struck.values())} kills in {asked.runs} runs: {dict(struck)}.")
    print(f"Same bits: {asked.runs - len(different)} of {asked.runs}. {time.perf_counter() - began:.0f} s.")
    print(*different, sep="\n")
    return 1 if different else 0


def run(folder: Path, *words: str) -> Path:
    folder.mkdir(exist_ok=True)
    outcomes = outcomes_together(2, job, str(folder), *words)
    if not words and any(isinstance(outcome, BaseException | int) for outcome in outcomes):
        raise SystemExit(f"The job fails by itself: {outcomes}")
    return folder


def ended(folder: Path) -> Any:
    return json.loads((folder / "ended.json").read_text())


if __name__ == "__main__":
    sys.exit(main())
