"""Everything on against hand-written DDP, on 2 gloo processes: a step, its exchanges, and sharded saves against PyTorch's.

    python benchmarks/distributed.py
    python benchmarks/distributed.py --repeats 5 --steps 600 --megabytes 200

Each figure is the ratio of two medians; the two sides alternate, each in two processes of its own with one thread each.
Exchanges are those that Python asks for between the first and the last timed step: DDP's own are the same on both sides.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

COUNTED = ("all_reduce", "broadcast", "all_gather", "all_gather_object", "broadcast_object_list", "barrier", "reduce", "gather")
WIDTH, BATCH, WARM = 256, 64, 50


def network() -> nn.Module:
    """The network of both sides."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


def counting() -> dict[str, int]:
    """The exchanges that Python asks for from here on, by their names."""
    counts: dict[str, int] = {}

    def counted(name: str, inner: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[name] = counts.get(name, 0) + 1
            return inner(*args, **kwargs)

        return call

    for name in COUNTED:
        setattr(dist, name, counted(name, getattr(dist, name)))
    return counts


def by_hand(steps: int) -> dict[str, Any]:
    """The loop that one would write."""
    dist.init_process_group("gloo")
    module = nn.parallel.DistributedDataParallel(network())
    optimizer = torch.optim.AdamW(module.parameters())
    data = torch.randn((WARM + steps) * BATCH, WIDTH)
    for number, batch in enumerate(data.split(BATCH)):
        if number == WARM:
            began = time.perf_counter()
        loss = module(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"step": (time.perf_counter() - began) / steps}


def with_leyden(steps: int) -> dict[str, Any]:
    """The same with a Trainer, and everything on that is on by default but for the bar."""
    import leyden
    from leyden.loggers import CSVLogger

    class Module(leyden.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == WARM:
                self.counts, self.began = counting(), time.perf_counter()
            loss: Tensor = self.network(batch[0]).pow(2).mean()
            self.log("loss", loss)
            if batch_idx == WARM + steps - 1:
                self.seen = dict(self.counts)
                self.ended = time.perf_counter()
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters())

    data = torch.utils.data.TensorDataset(torch.randn((WARM + steps) * BATCH * 2, WIDTH))
    module = Module()
    folder = tempfile.mkdtemp()
    trainer = leyden.Trainer(
        devices=2,
        accelerator="cpu",
        strategy="ddp",
        max_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        logger=CSVLogger(folder),
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, BATCH))
    return {"step": (module.ended - module.began) / (steps - 1), "exchanges": module.seen}


def saves(megabytes: int) -> dict[str, Any]:
    """Seconds of a sharded save, and of PyTorch's own with the same tensors, both durable; they alternate."""
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    from leyden.checkpoint.shards import group_of_all, write_folder

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    count = max(1, megabytes // 4)
    state = {f"layer{number}": distribute_tensor(torch.randn(1024, 1024), mesh, [Shard(0)]) for number in range(count)}
    box = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    folder = str(box[0])
    group, times = group_of_all(), dict[str, list[float]](save=[], dcp=[])
    for number in range(6):
        for kind in ("save", "dcp"):
            dist.barrier()
            began = time.perf_counter()
            if kind == "save":
                write_folder({"state_dict": state}, f"{folder}/{number}.ckpt", group)
            else:
                save(state, checkpoint_id=f"{folder}/{number}.dcp", process_group=group)
            dist.barrier()
            if number:
                times[kind].append(time.perf_counter() - began)
    return {kind: statistics.median(found) for kind, found in times.items()}


def pair(kind: str, amount: int) -> dict[str, Any]:
    """What the first of two processes says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--worker", kind, str(amount)]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **both, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=300)[0] for process in processes]
    found: dict[str, Any] = json.loads(said[0].splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        torch.set_num_threads(1)
        kind, amount = asked.worker
        print("\n" + json.dumps({"hand": by_hand, "leyden": with_leyden, "saves": saves}[kind](int(amount))), flush=True)
        return
    found: dict[str, list[dict[str, Any]]] = {"hand": [], "leyden": []}
    for _ in range(asked.repeats):
        for kind, results in found.items():
            results.append(pair(kind, asked.steps))
    hand, ours = (statistics.median(each["step"] for each in found[kind]) * 1e6 for kind in ("hand", "leyden"))
    saved = pair("saves", asked.megabytes)
    print("| | leyden | beside it | ratio of medians |\n| --- | ---: | ---: | ---: |")
    print(f"| a step, everything on | {ours:.0f} us | DDP by hand: {hand:.0f} us | {ours / hand:.2f} |")
    print(f"| exchanges in {asked.steps} steps | {found['leyden'][0]['exchanges'] or 'none'} | none | |")
    dcp = saved["dcp"]
    print(f"| sharded save, {asked.megabytes} MB | {saved['save']:.2f} s | dcp.save: {dcp:.2f} s | {saved['save'] / dcp:.2f} |")


if __name__ == "__main__":
    main()
