"""Whether the backend of a process group that was asked for is one, and serves the devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leyden.errors import InvalidOption, InvalidType, Unsupported

_BUILT_IN = {"nccl": dist.is_nccl_available, "mpi": dist.is_mpi_available, "gloo": dist.is_gloo_available}


def check_backend(given: object, devices: Sequence[torch.device]) -> None:
    """Raise where ``given``, of :func:`torch.distributed.init_process_group`, is no backend, or none for ``devices``."""
    if given is None:
        return
    if not isinstance(given, str):
        raise InvalidType("process_group_backend", given, "a text, or None to leave the choice to the devices")
    known = [name for name in dist.Backend.backend_list if name != dist.Backend.UNDEFINED]
    asked = [pair.rpartition(":") for pair in given.lower().split(",")]
    for _, _, name in asked:
        if name not in known:
            expected = ", ".join(map(repr, known))
            raise InvalidOption("process_group_backend", given, f"one of {expected}, or pairs such as 'cpu:gloo,cuda:nccl'")
        if not _BUILT_IN.get(name, lambda: True)():
            raise Unsupported(f"process_group_backend={given!r}: this PyTorch was built without {name}.")
    for kind in dict.fromkeys(device.type for device in devices):
        if not serves(given, kind):
            able = [name for name in known if kind in dist.Backend.backend_capability.get(name, [])]
            raise Unsupported(
                f"process_group_backend={given!r} exchanges nothing between devices of kind {kind!r}, on which this run trains. "
                f"Leave it out, or pass one of {', '.join(map(repr, able))}."
            )


def serves(backend: str, kind: str) -> bool:
    """Whether ``backend``, a name or pairs of devices and names, exchanges tensors on devices of ``kind``."""
    pairs = [pair.rpartition(":") for pair in backend.lower().split(",")]
    return any(on in ("", kind) and kind in dist.Backend.backend_capability.get(name, [kind]) for on, _, name in pairs)


def with_cpu(backend: str | None) -> str | None:
    """``backend``, with gloo beside it where it serves GPUs alone: a run exchanges small tensors on the CPU too."""
    if backend is None or serves(backend, "cpu"):
        return backend
    if ":" in backend:
        return f"cpu:gloo,{backend}"
    kinds = dist.Backend.backend_capability.get(backend.lower(), [])
    return ",".join(["cpu:gloo", *(f"{kind}:{backend}" for kind in kinds)])


def carried(tensor: Tensor, group: Any = None) -> Tensor:
    """``tensor``; where ``group`` knows none on the CPU, as one of NCCL alone does that a user made, on this process's GPU."""
    if tensor.device.type != "cpu" or serves(dist.get_backend_config(group), "cpu"):
        return tensor
    return tensor.to(torch.accelerator.current_accelerator())
