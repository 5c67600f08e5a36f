"""Reading numbers off a GPU without waiting for it, for who can do with what was so a moment ago: a bar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leyden.metrics.newest import read_numbers, stack_scalars


class Unwaited:
    """Tells the numbers of the call before, once the device has come to them, and sends for those of this one.

    The host runs ahead of a GPU. To read a value now is to wait until the GPU has done all that was asked of it, and then the
    GPU waits for the host. Here a value is copied when the GPU comes to it, and told at the next call after that. Only a
    name that was never told is waited for.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}
        self._sent: dict[tuple[str, ...], tuple[Tensor, Any]] = {}  # by names: where the numbers come to, and when they have

    def read(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """``values`` as numbers: of a tensor on a GPU its newest that is known, of everything else what it is now."""
        for names, (numbers, copied) in list(self._sent.items()):
            if copied.query():
                del self._sent[names]
                self._known.update(zip(names, numbers.tolist(), strict=True))
        far = {name: value for name, value in values.items() if self.is_far(value)}
        told = read_numbers({name: value for name, value in values.items() if name not in far or name not in self._known})
        self._known.update((name, told[name]) for name in far if name in told)
        groups: dict[tuple[torch.dtype, torch.device], list[str]] = {}
        for name, value in far.items():
            groups.setdefault((value.dtype, value.device), []).append(name)
        for listed in groups.values():
            if tuple(listed) not in self._sent:
                self._sent[tuple(listed)] = self.send(stack_scalars(far[name] for name in listed))
        return {name: self._known[name] if name in far else told[name] for name in values}

    def is_far(self, value: Any) -> bool:
        """Whether to read ``value`` is to wait."""
        return isinstance(value, Tensor) and value.is_cuda

    def send(self, stacked: Tensor) -> tuple[Tensor, Any]:
        """Where the numbers will be on the CPU, and an event that is over when they are."""
        numbers = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
        numbers.copy_(stacked, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(stacked.device))
        return numbers, copied
