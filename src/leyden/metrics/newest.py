"""The newest values under each name, as callbacks, loggers and the bar see them, and their reading as numbers, in bulk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from leyden.distributed.processes import Processes
from leyden.metrics.accumulators import as_tensor
from leyden.metrics.decisions import Decisions
from leyden.metrics.logged import Entry

K = TypeVar("K")


class Newest:
    """Three views of what was logged: for callbacks, for loggers, for the bar."""

    def __init__(self) -> None:
        self.callback: dict[str, Tensor] = {}
        self.logged: dict[str, Any] = {}
        self.bar: dict[str, Any] = {}
        self.own: dict[str, bool] = {}
        """Names of which callbacks see this process's own value, and whether only the first process's is meant."""

    def take(self, entry: Entry, name: str, value: Any, callback: bool, own: bool) -> None:
        """A value of ``entry``, under ``name``: this process's ``own``, or that of all."""
        if callback:
            tensor = as_tensor(value)
            for each in (entry.name, name):
                self.callback[each] = tensor
                self._note(each, own, entry.own)
        if entry.logger:
            self.logged[name] = value
        if entry.bar:
            self.bar[name] = value

    def publish(self, values: Mapping[str, Any], *, callback: bool, bar: bool, logged: bool) -> None:
        """Values that nobody logged."""
        for name, value in values.items():
            if callback:
                self.callback[name] = as_tensor(value)
                self._note(name, own=True)
            if bar:
                self.bar[name] = value
            if logged:
                self.logged[name] = value

    def _note(self, name: str, own: bool, of_the_first: bool = False) -> None:
        if own:
            self.own[name] = of_the_first
        else:
            self.own.pop(name, None)

    def of_all(self, names: Iterable[str], processes: Processes, decisions: Decisions) -> dict[str, Tensor]:
        """As :meth:`Metrics.of_all <leyden.metrics.metrics.Metrics.of_all>`."""
        wanted = set(names)
        if processes.alone or not wanted:
            return {}
        asked = sorted(name for name in wanted & self.own.keys() if name in self.callback)
        decisions.agree(wanted, asked)
        if not asked:
            return {}
        values = read_numbers({name: self.callback[name] for name in asked})
        mine = [values[name] if processes.is_first or not self.own[name] else 0.0 for name in asked]
        total = processes.all_reduce(torch.tensor(mine, dtype=torch.float64))
        means = (each if self.own[name] else each / processes.world for name, each in zip(asked, total, strict=True))
        return {name: mean.to(self.callback[name]) for name, mean in zip(asked, means, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"callback": dict(self.callback), "logged": dict(self.logged), "bar": dict(self.bar), "own": dict(self.own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.callback, self.logged, self.bar = dict(state["callback"]), dict(state["logged"]), dict(state["bar"])
        self.own = dict(state.get("own", {}))  # 2.6.0 wrote none


def read_numbers(values: Mapping[K, Any]) -> dict[K, float]:
    """Tensors as Python numbers, read in bulk: one transfer for each type and device."""
    numbers: dict[K, Any] = {}
    groups: dict[tuple[torch.dtype, torch.device], list[K]] = {}
    for name, value in values.items():
        numbers[name] = value
        if isinstance(value, Tensor):
            groups.setdefault((value.dtype, value.device), []).append(name)
    for names in groups.values():
        for name, number in zip(names, stack_scalars(values[name] for name in names).tolist(), strict=True):
            numbers[name] = number
    return numbers


def stack_scalars(values: Iterable[Tensor]) -> Tensor:
    listed = [value if not value.dim() else value.reshape(()) for value in values]
    place = listed[-1].device
    return torch.stack([value if value.device == place else value.to(place) for value in listed]).detach()
