"""Everything on beside what one would write by hand on 2 gloo processes: steps, exchanges, sharded saves, the first step.

    python benchmarks/distributed.py
    python benchmarks/distributed.py --only ddp fsdp --rounds 60 --steps 40
    python benchmarks/distributed.py --only saves --megabytes 400

Each process has one thread. Steps and saves of both sides are made in turn by one pair of processes, in short rounds, and a round
is compared with those beside it: what else the machine does strikes both. Of jobs up to their first step whole ones alternate.
What counts is the median of the ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from measuring import at_a_terminal, machine, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

WIDTH, BATCH, FEW = 256, 64, 256
"""Of the network and its batches; of the samples of a job that is measured up to its first step."""
ASKED = ("set", "get", "add", "check", "compare_set", "wait")
"""What a store of the process group is asked."""
NAMES = ("all_reduce", "broadcast", "all_gather", "all_gather_object", "broadcast_object_list", "barrier", "reduce", "gather")


def network() -> nn.Module:
    """The network of all sides."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


# Steps


class Sides:
    """The rounds of all sides in their order: seconds a step, and of the processor; and what was exchanged."""

    def __init__(self) -> None:
        self.rounds: list[tuple[str, float, float]] = []
        self.steps: Counter[str] = Counter()
        self.exchanges: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        """What Python asked the group for in leyden's rounds, and the training thread its store."""
        self.calls: dict[str, float] = {}
        self.counts = False
        """Whether a round counts calls of Python, and takes no time."""
        self._of_round: Counter[str] = Counter()
        for name in NAMES:
            setattr(dist, name, self._counted(name, getattr(dist, name)))
        store, self._thread = dist.distributed_c10d.Store, threading.get_ident()
        for name in ASKED:
            setattr(store, name, self._counted(f"store.{name}", getattr(store, name)))

    def _counted(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                self._of_round[name] += 1
            return inner(*args, **kwargs)

        return call

    def begin(self) -> None:
        dist.barrier()
        self._of_round.clear()
        self._exchanged = _exchanged()
        self._called = 0
        if self.counts:
            sys.setprofile(self._call)
        self._wall, self._busy = time.perf_counter(), time.process_time()

    def _call(self, frame: FrameType, event: str, argument: Any) -> None:
        self._called += event == "call"

    def end(self, side: str, steps: int) -> None:
        if self.counts:
            sys.setprofile(None)
            self.calls[side] = self._called / steps
            return
        wall, busy = time.perf_counter() - self._wall, time.process_time() - self._busy
        self.rounds.append((side, wall / steps, busy / steps))
        self.steps[side] += steps
        self.exchanges[side] += _exchanged() - self._exchanged
        if side == "leyden":
            self.asked += self._of_round

    def found(self) -> dict[str, Any]:
        exchanges = {side: each / self.steps[side] for side, each in self.exchanges.items()}
        seen = {"rounds": self.rounds, "calls": self.calls, "exchanges": exchanges}
        return {**seen, "asked": self.asked, "count": self.steps["leyden"]}


def _exchanged() -> int:
    """How many exchanges the group has had, whoever asked for them: PyTorch numbers them."""
    group: Any = dist.group.WORLD
    number: int = group._get_sequence_number_for_group()
    return number


class ByHand:
    """The loop that one would write, over batches that somebody reads."""

    def __init__(self, kind: str, batches: Iterator[Any]) -> None:
        module: Any = network()
        if kind == "fsdp":
            from torch.distributed.fsdp import fully_shard

            fully_shard(module)
        else:
            module = nn.parallel.DistributedDataParallel(module)
        self.module, self.batches = module, batches
        self.optimizer = torch.optim.AdamW(module.parameters())

    def train(self, steps: int) -> None:
        for (batch,) in itertools.islice(self.batches, steps):
            loss = self.module(batch).pow(2).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def again_and_again(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


def steps(kind: str, rounds: int, count: int) -> dict[str, Any]:
    """A Trainer with everything on. Every ``count`` steps it lets a loop by hand have a third as many; there are two, in turn."""
    import leyden
    from leyden.callbacks import LearningRateMonitor, ModelCheckpoint
    from leyden.loggers import CSVLogger, TensorBoardLogger

    sides, few = Sides(), count // 3
    data = TensorDataset(torch.randn((rounds + 4) * count * BATCH * 2, WIDTH))

    class Module(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx % count == 0 and batch_idx:
                self.take_turns(batch_idx // count)
            loss: Tensor = self.network(batch[0]).pow(2).mean()
            self.log("loss", loss, prog_bar=True)
            self.log("loss_again", loss, prog_bar=True)
            return loss

        def take_turns(self, number: int) -> None:
            """The clock of leyden stands while another trains."""
            if number == 1:
                loader = DataLoader(data, BATCH, sampler=DistributedSampler(data))
                cut = [(batch,) for batch in data.tensors[0][: 64 * BATCH].split(BATCH)]
                self.others = {"loader": ByHand(kind, again_and_again(loader)), "cut": ByHand(kind, itertools.cycle(cut))}
                for other in self.others.values():
                    other.train(20)
            else:
                sides.end("leyden", count)
            sides.counts = number > rounds
            side = "loader" if number % 2 else "cut"
            sides.begin()
            self.others[side].train(few)
            sides.end(side, few)
            sides.begin()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    loggers = [CSVLogger("logs"), TensorBoardLogger("logs")]
    trainer = leyden.Trainer(
        devices=2,
        accelerator="cpu",
        strategy=kind,
        max_epochs=1,
        limit_train_batches=(rounds + 3) * count + 1,
        logger=loggers,
        callbacks=[ModelCheckpoint("checkpoints", save_last=True), LearningRateMonitor()],
    )
    trainer.fit(Module(), DataLoader(data, BATCH, shuffle=True))
    return sides.found()


# Saves


def saves(megabytes: int, rounds: int) -> dict[str, Any]:
    """Seconds of a sharded save, and of PyTorch's own with the same tensors; they alternate.

    Both are durable: by hand that means that the folder and the one above it are synced after the files, which dcp.save syncs.
    """
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from leyden.checkpoint.shards import group_of_all, write_folder

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    state = {
        f"layer{number}": distribute_tensor(torch.randn(1024, 1024), mesh, [Shard(0)]) for number in range(max(1, megabytes // 4))
    }
    group, first = group_of_all(), dist.get_rank() == 0
    times: dict[str, list[float]] = {"leyden": [], "hand": []}

    def by_hand(path: str) -> None:
        save(state, checkpoint_id=path, process_group=group)
        if first:
            for folder in (path, os.path.dirname(path)):
                descriptor = os.open(folder, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)

    sides = {"leyden": lambda path: write_folder({"state_dict": state}, path, group), "hand": by_hand}
    for number in range(rounds + 1):
        for side in sorted(sides, reverse=number % 2 == 0):
            path = os.path.abspath(f"saves/{side}-{number}.ckpt")
            dist.barrier()
            began = time.perf_counter()
            sides[side](path)
            dist.barrier()
            if number:
                times[side].append(time.perf_counter() - began)
            if first:
                subprocess.run(["rm", "-r", path], check=True)
    return {"pairs": list(zip(times["leyden"], times["hand"], strict=True))}


# The first step


def first_by_hand(rank: int, port: int, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    data = TensorDataset(torch.randn(FEW, WIDTH))
    loader = DataLoader(data, BATCH, sampler=DistributedSampler(data))
    module = nn.parallel.DistributedDataParallel(network())
    optimizer = torch.optim.AdamW(module.parameters())
    for (batch,) in loader:
        loss = module(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        break
    if rank == 0:
        Path(result).write_text(json.dumps(time.time()))
    dist.destroy_process_group()


def launched_by_hand(result: str) -> None:
    """What is commonly written: a process that has imported torch spawns the two that train."""
    processes: Any = torch.multiprocessing
    processes.spawn(first_by_hand, (_free_port(), result), nprocs=2)


def launched_by_leyden(result: str) -> None:
    import leyden

    class Module(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss: Tensor = self.network(batch[0]).pow(2).mean()
            self.log("loss", loss, prog_bar=True)
            return loss

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.global_rank == 0:
                Path(result).write_text(json.dumps(time.time()))

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    loader = DataLoader(TensorDataset(torch.randn(FEW, WIDTH)), BATCH, shuffle=True)
    leyden.Trainer(devices=2, accelerator="cpu", strategy="ddp", max_steps=1).fit(Module(), loader)


# Around the processes


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def pair(*words: Any) -> dict[str, Any]:
    """What the first of two processes says. It sits at a terminal, so that its bar draws."""
    names = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--result", str(result), "--worker", *map(str, words)]
        os.environ.update(names, GROUP_RANK="0", OMP_NUM_THREADS="1")
        place = {rank: {**os.environ, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"}
        second = subprocess.Popen(command, cwd=folder, env=place["1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.environ.update(place["0"])
        try:
            code, shown = at_a_terminal(command, folder)
            second.wait(60)
        finally:
            second.kill()
            for name in [*names, "GROUP_RANK", "RANK", "LOCAL_RANK"]:
                os.environ.pop(name, None)
        if code or not result.exists():
            raise SystemExit(f"{words} failed with exit status {code}:\n{shown[-4000:]}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def seconds_to_first_step(side: str) -> float:
    """From the start of the first process to the end of the first step, of code that is compiled, as an installed package is."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else leyden alone is compiled anew, by each process
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, str(Path(__file__).resolve()), "--result", str(result), "--worker", "first", side]
        began = time.time()
        code, shown = at_a_terminal(command, folder)
        if code or not result.exists():
            raise SystemExit(f"the job of {side} failed with exit status {code}:\n{shown[-4000:]}")
        ended: float = json.loads(result.read_text())
        return ended - began


def beside(rounds: list[Any], side: str, clock: int) -> list[tuple[float, float]]:
    """Each round of ``side``, behind the mean of leyden's rounds before and after it."""
    around = zip(rounds, rounds[1:], rounds[2:], strict=False)
    return [((before[clock] + after[clock]) / 2, each[clock]) for before, each, after in around if each[0] == side]


def row(what: str, other: str, pairs: list[tuple[float, float]], unit: str = "s") -> list[str]:
    """A line of the table: two medians, and the median of the ratios."""
    mine, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    shown = [f"{seconds * 1e6:.0f} us" if unit == "us" else f"{seconds:.2f} s" for seconds in (mine, theirs)]
    return [what, shown[0], f"{other}: {shown[1]}", f"{statistics.median(one / another for one, another in pairs):.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = ("ddp", "fsdp", "saves", "first")
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--rounds", type=int, default=40, help="of each side, of which the median counts (40)")
    parser.add_argument("--steps", type=int, default=60, help="of leyden in a round (60)")
    parser.add_argument("--megabytes", type=int, default=100, help="of a sharded save (100)")
    parser.add_argument("--jobs", type=int, default=7, help="jobs of each side up to their first step (7)")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        kind, *words = asked.worker
        if kind == "first":
            (launched_by_leyden if words == ["leyden"] else launched_by_hand)(asked.result)
            return
        torch.set_num_threads(1)
        numbers = list(map(int, words))
        found = saves(*numbers) if kind == "saves" else steps(kind, *numbers)
        if os.environ["RANK"] == "0":
            Path(asked.result).write_text(json.dumps(found))
        return
    rows: list[list[str]] = []
    for kind, name in (("ddp", "DDP"), ("fsdp", "FSDP2")):
        if kind not in asked.only:
            continue
        found = pair(kind, asked.rounds, asked.steps)
        for side, how in (("loader", "by hand"), ("cut", "by hand, batches cut before")):
            for clock, said in ((1, ""), (2, ", time of the processor")):
                pairs = beside(found["rounds"], side, clock)
                rows.append(row(f"{kind}: a step, everything on{said}", f"{name} {how}", pairs, "us"))
        calls, exchanged, count = found["calls"], found["exchanges"], found["count"]
        others = f"{calls['loader']:.0f}; batches cut before: {calls['cut']:.0f}"
        more_calls = f"{calls['leyden'] / calls['loader']:.3f}"
        rows.append([f"{kind}: Python calls a step", f"{calls['leyden']:.0f}", others, more_calls])
        more = ", ".join(f"{number} {name}" for name, number in found["asked"].items()) or "none"
        rows.append([f"{kind}: exchanges a step", f"{exchanged['leyden']:.3f}", f"{exchanged['loader']:.3f}", ""])
        rows.append([f"{kind}: exchanges and words of the store that Python asked for in {count} steps", more, "none", ""])
    if "saves" in asked.only:
        found = pair("saves", asked.megabytes, asked.rounds)
        rows.append(row(f"sharded save, {asked.megabytes} MB", "`dcp.save`", found["pairs"]))
    if "first" in asked.only:
        jobs: dict[str, list[float]] = {"leyden": [], "hand": []}
        for number in range(asked.jobs):
            for side in sorted(jobs, reverse=number % 2 == 0):
                jobs[side].append(seconds_to_first_step(side))
        pairs = list(zip(jobs["leyden"], jobs["hand"], strict=True))
        rows.append(row("to the first step", "`torch.multiprocessing.spawn`", pairs))
    table(["", "leyden", "beside it", "median of ratios"], rows)
    print(f"\n{machine({'torch': torch.__version__})}")


if __name__ == "__main__":
    main()
