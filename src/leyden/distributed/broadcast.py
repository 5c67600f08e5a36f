"""A checkpoint's content from the first process to the others: tensors one by one, each in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leyden.distributed.processes import Processes
from leyden.distributed.sharing import on_cpu, sendable, travels
from leyden.errors import CheckpointError
from leyden.tree import bytes_of, tree_leaves, tree_map

PIECE = 64 * 2**20
"""Bytes that are on their way at a time, so that nothing is in memory twice."""


@dataclass(frozen=True)
class _Place:
    """Where a tensor stood: what has to be known to make room for it."""

    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def from_first(processes: Processes, read: Callable[[], Any]) -> Any:
    """What ``read()`` returns on the first process, on all of them; what it raises there is raised on all.

    All ``processes`` call this, and the first one alone calls ``read``. Tensors in what it returns come to the CPU.
    """
    if processes.alone:
        return read()
    tensors: list[Tensor] = []
    content, skeleton, failure = None, None, None
    if processes.is_first:
        try:
            content = on_cpu(read())
            skeleton = tree_map(content, Tensor, lambda tensor: _placed(tensors, tensor))
        except Exception as error:
            failure = error
    skeleton, failure = _told(processes, skeleton, failure)
    if failure is not None:
        raise failure
    if processes.is_first:
        _share(processes, tensors)
        return content
    places = sorted(tree_leaves(skeleton, _Place), key=lambda place: place.number)
    room = {place.number: torch.empty(place.shape, dtype=place.dtype) for place in places}
    _share(processes, room.values())
    return tree_map(skeleton, _Place, lambda place: room[place.number])


def _placed(tensors: list[Tensor], tensor: Tensor) -> _Place | Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor  # rare and small: it travels with the rest
    plain = tensor.detach()
    tensors.append(plain)
    return _Place(len(tensors) - 1, tuple(plain.shape), plain.dtype)


def _told(processes: Processes, skeleton: Any, failure: Exception | None) -> tuple[Any, Exception | None]:
    if failure is not None:
        failure = sendable(failure, CheckpointError)
    elif processes.is_first and not travels(skeleton):
        failure = CheckpointError("The checkpoint holds something that cannot be handed to the other processes.")
    told: tuple[Any, Exception | None] = processes.broadcast((None if failure is not None else skeleton, failure))
    return told


def _share(processes: Processes, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        for piece in bytes_of(tensor).split(PIECE) if tensor.numel() else ():
            processes.fill(piece)
