"""Whether the processes that are about to train together have the same module."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from leyden.distributed.alike import alike
from leyden.distributed.processes import Processes
from leyden.errors import ModulesDiffer

_MOST_SHOWN = 5


def agree_on_module(processes: Processes, module: nn.Module) -> None:
    """See that ``module`` has the same parameters and buffers on all processes, by one exchange of two numbers.

    Engines copy weights and add gradients by their place alone: one process would wait for ever, or the numbers be wrong.
    Raises :class:`ModulesDiffer` on every process.
    """
    if processes.alone:
        return
    mine = list(_described(module))
    if alike(processes, mine):
        return
    everywhere = processes.gather_objects(mine)
    first = everywhere[0]
    rank = next(rank for rank, theirs in enumerate(everywhere) if theirs != first)
    faults = list(_differences(dict(first), dict(everywhere[rank]), rank)) or ["their order differs"]
    shown = "; ".join(faults[:_MOST_SHOWN]) + (f"; and {len(faults) - _MOST_SHOWN} more" if len(faults) > _MOST_SHOWN else "")
    raise ModulesDiffer(
        f"{type(module).__name__} is not the same on all processes: {shown}. Build it from the same arguments everywhere, "
        f"and let nothing in it depend on the rank or on data that one process has."
    )


def _described(module: nn.Module) -> Iterator[tuple[str, str]]:
    for name, parameter in module.named_parameters():
        yield name, f"{list(parameter.shape)} {parameter.dtype}" + ("" if parameter.requires_grad else ", frozen")
    for name, buffer in module.named_buffers():
        yield name, f"{list(buffer.shape)} {buffer.dtype}, a buffer"


def _differences(first: dict[str, str], other: dict[str, str], rank: int) -> Iterator[str]:
    for name in dict.fromkeys((*first, *other)):
        here, there = first.get(name), other.get(name)
        if here is None or there is None:
            has, lacks = (0, rank) if there is None else (rank, 0)
            yield f"{name} is on process {has}, and not on {lacks}"
        elif here != there:
            yield f"{name} is {here} on process 0, and {there} on {rank}"
