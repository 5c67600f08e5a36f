"""On CUDA: copy a batch while the device still computes the step before it."""

from __future__ import annotations

import gc
import os
from collections import deque
from functools import cache
from typing import Any

import torch
from torch import Tensor

from leyden.devices.transfer import Movable, move_data_to_device
from leyden.tree import tree_map


class CopyAhead:
    """Moves batches to a CUDA device on a stream of their own, so that the copy of one runs beside the step before it.

    The host runs ahead of the device: when it asks for the next batch, the step before is queued and not done. On the stream of
    the computation the copy would queue behind it; here only the step that uses the copies waits for them. Batches are read in
    the same order and at the same moment as without it, so that no number changes. The host never runs further ahead than one
    batch: it waits until the device has begun the step before, so that copies do not pile up in the device's memory.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        _keep_garbage_in_forks()
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._begun: deque[torch.cuda.Event] = deque()
        """Of the last two batches: done when the device has come to the step of that batch."""

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Any:
        """``batch`` on the device, as :func:`leyden.devices.transfer.move_data_to_device` moves it."""
        if len(self._begun) == 2:
            begun = self._begun.popleft()
            if not begun.query():
                begun.synchronize()
        computing = torch.cuda.current_stream(self.device)
        copies: list[Tensor] = []
        others = False

        def copied(leaf: Any) -> Any:
            nonlocal others
            if not copies_beside(leaf):
                others = True
                return leaf
            copies.append(pinned(leaf).to(self.device, non_blocking=True))
            return copies[-1]

        with torch.cuda.stream(self._stream):
            batch = tree_map(batch, Movable, copied)
        if copies:
            computing.wait_stream(self._stream)
        for copy in copies:
            copy.record_stream(computing)  # its memory is not used again before the step is done with it
        begun = torch.cuda.Event(blocking=True)
        begun.record(computing)
        self._begun.append(begun)
        return move_data_to_device(batch, self.device) if others else batch


@cache
def _keep_garbage_in_forks() -> None:
    """What is garbage in this process is no forked one's to collect.

    To free a tensor that two streams used is a call to CUDA, which a forked process cannot make: it would end a worker.
    """
    was_on = False

    def before() -> None:
        nonlocal was_on
        was_on = gc.isenabled()
        gc.disable()

    def after() -> None:
        if was_on:
            gc.enable()

    def in_child() -> None:
        gc.freeze()
        after()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=before, after_in_parent=after, after_in_child=in_child)


def copies_beside(leaf: Any) -> bool:
    """Whether ``leaf`` is a plain tensor of the CPU. Of anything else it is not known which memory its ``to`` touches."""
    return type(leaf) is Tensor and leaf.device.type == "cpu" and leaf.layout is torch.strided and not leaf.requires_grad


def pinned(tensor: Tensor) -> Tensor:
    """``tensor``, or a copy of it, in memory that the device reads by itself."""
    return tensor if tensor.is_pinned() else torch.empty_like(tensor, pin_memory=True).copy_(tensor)
