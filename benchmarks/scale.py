"""What a step needs on 8 to 1,024 processes, planned and built on one machine: bytes a rank, exchanges and bytes a step.

    python benchmarks/scale.py
    python benchmarks/scale.py --ranks 8 64 --layers 2 --width 256

One process plays rank 0 of a group whose exchanges are not made (PyTorch's "fake" backend): shapes, memory and the order of
exchanges are those of the real job, values are not. The engines are those under `strategy="ddp"`, `"fsdp"` and
`ModelParallelStrategy`: DistributedDataParallel, `fully_shard` and `parallelize_module`.
Bytes of an exchange are those of the larger of what goes in and what comes out.
"""

import argparse
import subprocess
import sys
from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

RANKS = (8, 64, 256, 1024)
KINDS = ("ddp", "fsdp", "tensor parallel", "both")
WITHIN = 8  # processes of one machine, among which a tensor-parallel layer is split


class Block(nn.Module):
    """A block of a transformer, (batch, time, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        there = self.norm1(x)
        q, k, v = (part(there).unflatten(-1, (-1, self.head)).transpose(1, 2) for part in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


SPLIT = dict.fromkeys(("q", "k", "v", "up"), ColwiseParallel) | dict.fromkeys(("out", "down"), RowwiseParallel)


class Exchanges(TorchDispatchMode):
    """Counts what goes over the wire, by its kind, and its bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no annotation there
        self.counts: Counter[str] = Counter()
        self.bytes = 0

    def add(self, kind: str, size: int) -> None:
        self.counts[kind] += 1
        self.bytes += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        space, _, name = func.__name__.rpartition("::") if "::" in func.__name__ else (func.namespace, "", func.__name__)
        if "c10d" in space and "wait" not in name and "wrap" not in name:
            self.add(KIND.get(name.split(".")[0], name.split(".")[0]), max(_size(args), _size(result)))
        return result


KIND = {
    "_allgather_base_": "all_gather",
    "all_gather_into_tensor": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_tensor": "reduce_scatter",
    "allreduce_": "all_reduce",
}


def _size(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    return max(map(_size, value), default=0) if isinstance(value, list | tuple) else 0


def local_bytes(tensors: Any) -> int:
    """Bytes of this rank's part."""
    parts = (each.to_local() if hasattr(each, "to_local") else each for each in tensors)
    return sum(part.numel() * part.element_size() for part in parts)


def step(kind: str, ranks: int, layers: int, width: int) -> dict[str, Any]:
    """Build ``kind`` on ``ranks`` processes, and make a step of it. Memory in bytes, exchanges by kind."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    module = nn.Sequential(*(Block(width, 8) for _ in range(layers)))
    within = min(WITHIN, ranks)
    counted = Exchanges()
    mesh = init_device_mesh("cpu", (ranks // within, within), mesh_dim_names=("data", "tensor"))
    if kind in ("tensor parallel", "both"):
        for block in module:
            parallelize_module(block, mesh["tensor"], {name: split() for name, split in SPLIT.items()})
    if kind in ("fsdp", "both"):
        along = mesh["data"] if kind == "both" else init_device_mesh("cpu", (ranks,))
        for block in module:
            fully_shard(block, mesh=along)
        fully_shard(module, mesh=along)
    run: nn.Module = module
    if kind == "ddp":
        run = DistributedDataParallel(module)

        def noted(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]  # torch makes the name at run time
            counted.add("all_reduce", _size(bucket.buffer()))
            done: torch.futures.Future[Tensor] = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        run.register_comm_hook(None, noted)
    optimizer = torch.optim.AdamW(module.parameters(), foreach=False)
    for _ in range(2):  # the first steps build what the others use: DDP's buckets
        run(torch.zeros(1, 8, width)).sum().backward()
        optimizer.zero_grad()
    counted.counts.clear()
    counted.bytes = 0
    with counted:
        run(torch.zeros(1, 8, width)).sum().backward()
        if kind == "tensor parallel" and ranks > within:  # the same part on every machine: averaged as under ddp
            for parameter in module.parameters():
                gradient: Any = parameter.grad
                gradient = gradient.to_local() if hasattr(gradient, "to_local") else gradient
                dist.all_reduce(gradient, group=mesh["data"].get_group())
    gradients = local_bytes(parameter.grad for parameter in module.parameters())
    optimizer.step()
    states = local_bytes(value for state in optimizer.state.values() for value in state.values() if value.dim())
    parameters = local_bytes(module.parameters())
    dist.destroy_process_group()
    return {
        "parameters": parameters,
        "gradients": gradients,
        "optimizer": states,
        "exchanges": dict(sorted(counted.counts.items())),
        "bytes": counted.bytes,
    }


def row(kind: str, ranks: int, found: dict[str, Any]) -> str:
    """A line of the table."""
    memory = " | ".join(f"{found[name] / 1e6:.2f}" for name in ("parameters", "gradients", "optimizer"))
    listed = ", ".join(f"{count} {name}" for name, count in found["exchanges"].items())
    return f"| {kind} | {ranks:,} | {memory} | {listed} | {found['bytes'] / 1e6:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a process of its own for each configuration
    asked = parser.parse_args()
    if asked.one:
        torch.set_num_threads(1)
        for ranks in asked.ranks:
            print(row(asked.kinds[0], ranks, step(asked.kinds[0], ranks, asked.layers, asked.width)), flush=True)
        return
    numbers = 12 * asked.width**2 * asked.layers
    print(f"{asked.layers} blocks of a transformer, width {asked.width}: {numbers / 1e6:.0f} million numbers, float32, AdamW.\n")
    print("| | ranks | parameters, MB a rank | gradients | optimizer | exchanges a step | MB exchanged |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: |", flush=True)
    shape = ["--layers", str(asked.layers), "--width", str(asked.width)]
    for kind in asked.kinds:
        command = [sys.executable, __file__, "--one", "--kinds", kind, "--ranks", *map(str, asked.ranks), *shape]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
