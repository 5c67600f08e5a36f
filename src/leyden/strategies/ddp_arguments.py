"""What torch's DistributedDataParallel takes, checked before anything begins: a wrong value would be an error of each process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from leyden.errors import InvalidOption, InvalidType

_SWITCHES = (
    *("find_unused_parameters", "gradient_as_bucket_view", "static_graph", "broadcast_buffers", "init_sync"),
    *("check_reduction", "skip_all_reduce_unused_params", "batched_grad_copy"),
)


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and value > 0


def _is_named(value: Any) -> bool:
    return (
        isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], nn.Parameter)
    )


def _lists(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, list | tuple) and all(map(holds, value)))


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_SWITCHES, (lambda value: isinstance(value, bool), "True or False")),
    "forward_sync_buffers": (lambda value: value is None or isinstance(value, bool), "True, False or None"),
    "bucket_cap_mb": (lambda value: value is None or _is_size(value), "megabytes > 0, or None for what torch takes"),
    "bucket_cap_mb_list": (_lists(_is_size), "a list of megabytes > 0, or None"),
    "dim": (lambda value: type(value) is int, "a number: the dimension along which batches are cut"),
    "output_device": (
        lambda value: value is None or (isinstance(value, int | str | torch.device) and index_of(value) is not None),
        "a device, or None for the module's",
    ),
    "process_group": (
        lambda value: value is None or isinstance(value, dist.ProcessGroup),
        "a torch.distributed.ProcessGroup, or None",
    ),
    "device_mesh": (lambda value: value is None or isinstance(value, DeviceMesh), "a DeviceMesh, or None"),
    "delay_all_reduce_named_params": (_lists(_is_named), "a list of names with parameters, or None"),
    "param_to_hook_all_reduce": (lambda value: value is None or isinstance(value, nn.Parameter), "a parameter, or None"),
    "mixed_precision": (
        lambda value: value is None or type(value).__name__ == "_MixedPrecision",
        "torch.nn.parallel.distributed._MixedPrecision, or None",
    ),
}


def check_argument(name: str, value: Any) -> None:
    """Raises :class:`InvalidOption` or :class:`InvalidType` where torch could not use ``value``."""
    fits, expected = _EXPECTED.get(name, (lambda value: True, ""))
    if not fits(value):
        raise (InvalidOption if name.startswith("bucket_cap_mb") else InvalidType)(name, value, expected)


def index_of(device: int | str | torch.device) -> tuple[str, int] | None:
    """Kind and number of a device, of which ``0`` stands for the first GPU; ``None`` for what names none."""
    try:
        found = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    except RuntimeError:
        return None
    return found.type, found.index or 0
