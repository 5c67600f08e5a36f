"""Whether all processes bring tensors of the same shapes and types to an exchange that a user calls.

gloo ends a process without a word where sizes differ, or leaves all of them waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leyden.distributed.alike import alike
from leyden.distributed.processes import Processes
from leyden.errors import TensorsDiffer
from leyden.tree import tree_map

_MOST_SHOWN = 4
UNEVEN = (
    "Evaluation reads each sample once, so that processes can have different numbers of samples and batches: a "
    "DistributedSampler of your own repeats some until all have as many."
)
_ALWAYS = 16
"""Calls after which tensors on other devices than the CPU are looked at ever less often: there the host runs ahead of them."""


def agree_on_tensors(processes: Processes, what: str, data: Any) -> None:
    """See that ``data`` has tensors of the same shapes and types on all processes, by one exchange of two numbers.

    Tensors on a GPU are looked at in the first calls, and then in calls whose number is a power of two.

    Raises:
        TensorsDiffer: on every process.
    """
    if processes.alone:
        return
    processes.leyden_looked_at += 1
    number = processes.leyden_looked_at
    mine = list(_described(data, ""))
    if number > _ALWAYS and number & (number - 1) and any(device != "cpu" for _, _, device in mine):
        return
    if alike(processes, (what, mine)):
        return
    found = processes.gather_objects((what, {path: (shape, device) for path, shape, device in mine}))
    kinds = [kind for kind, _ in found]
    if len(set(kinds)) > 1:
        there = ", ".join(f"process {rank}: {kind}" for rank, kind in enumerate(kinds))
        raise TensorsDiffer(f"The processes are at different exchanges ({there}). Let all call the same in one order. {UNEVEN}")
    faults, rests = [], set()
    for path in dict.fromkeys(path for _, theirs in found for path in theirs):
        have = [theirs.get(path) for _, theirs in found]
        if len(set(have)) > 1:
            rests |= {each and each[0].partition("[")[0] + each[0].partition(",")[2] for each in have}
            by_device = len({each[1] for each in have if each is not None}) > 1
            said = ["nothing" if each is None else f"{each[0]} on {each[1]}" if by_device else each[0] for each in have]
            shown = ", ".join(f"{each} on process {rank}" for rank, each in list(enumerate(said))[:_MOST_SHOWN])
            faults.append(f"{path + ': ' if path else ''}{shown}{' ...' if len(have) > _MOST_SHOWN else ''}")
    raise TensorsDiffer(
        f"{what} was called with other tensors on each process ({'; '.join(faults[:_MOST_SHOWN]) or 'in another order'}). Pass "
        f"the same shapes and types everywhere: pad to one size, or take torch.distributed.all_gather_object."
        + (f" {UNEVEN}" if len(rests) == 1 else "")
    )


def _described(data: Any, path: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(data, Tensor):
        yield path, f"{str(data.dtype).removeprefix('torch.')}{list(data.shape)}", data.device.type
    elif isinstance(data, Mapping):
        for name, each in data.items():
            yield from _described(each, f"{path}[{name!r}]")
    elif isinstance(data, list | tuple):
        for number, each in enumerate(data):
            yield from _described(each, f"{path}[{number}]")


_TENSORS: tuple[tuple[Any, Callable[[Any], Tensor]], ...] = (
    (bool, lambda value: torch.tensor(value, dtype=torch.uint8)),
    (int, lambda value: torch.tensor(value, dtype=torch.int)),
    (float, lambda value: torch.tensor(value, dtype=torch.float)),
    (np.ndarray, torch.from_numpy),
)


def gathered(strategy: Any, plain: Any, data: Any, group: Any, sync_grads: bool) -> Any:
    """``data`` of every process, as ``LightningModule.all_gather`` gives it: numbers and arrays in it become tensors.

    ``plain`` is ``strategy.all_gather`` as it is where no class overrides it: then all of ``data`` is looked at once.
    """
    for kind, convert in _TENSORS:
        data = tree_map(data, kind, convert)
    data = tree_map(data, Tensor, lambda tensor: tensor.to(strategy.root_device))
    gather = strategy.all_gather
    if getattr(gather, "__func__", None) is plain:
        if group is None:
            agree_on_tensors(strategy.processes, "all_gather", data)
        gather = strategy.processes.all_gather
    return tree_map(data, Tensor, lambda tensor: gather(tensor, group, sync_grads))
