"""torchmetrics objects that several stages or loaders use: each finds its own state in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor


class _HoldsMetrics(Protocol):
    def metrics(self) -> Iterator[Any]: ...


def state_of(part: Any) -> dict[str, Any]:
    """What one metric (not those inside it) has counted."""
    return {
        "states": {name: getattr(part, name) for name in part._defaults},
        "updates": part._update_count,
        "forward": getattr(part, "_forward_cache", None),
    }


def parts_of(metric: Any) -> list[Any]:
    """A metric and the metrics inside it: wrappers hold others."""
    return [part for part in metric.modules() if hasattr(part, "_defaults") and hasattr(part, "_update_count")]


def used(metric: Any) -> bool:
    """Whether the metric, or one inside it, has counted anything since its last reset."""
    return any(part._update_count for part in parts_of(metric))


def reset(metric: Any) -> None:
    """Reset a metric so that training can use it, too: its states must be no inference tensors."""
    with torch.inference_mode(False):
        metric.reset()


class _Waiting:
    """The state of one metric and of those inside it, taken out of them."""

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.parts = []
        for part in parts_of(metric):
            state = state_of(part)
            # updates may add in place, and resets empty lists
            with torch.inference_mode(False):
                state["states"] = {
                    name: value.clone() if isinstance(value, Tensor) else list(value) for name, value in state["states"].items()
                }
            self.parts.append((part, state, part._computed))
        reset(metric)

    def put_back(self) -> None:
        for part, state, computed in self.parts:
            for name, value in state["states"].items():
                setattr(part, name, value)
            part._update_count, part._forward_cache, part._computed = state["updates"], state["forward"], computed


class SetAside:
    """States of metrics that wait while another stage or loader starts in the same objects anew.

    They are taken when the other's first batch comes. Metrics that it did not touch have theirs back when its batches are
    over, so that hooks find them; a stage's others have theirs back when the stage that came between has been read.
    """

    def __init__(self) -> None:
        self._due: list[Any] = []
        self._of_stage: dict[int, _Waiting] = {}
        self._of_loader: dict[int, _Waiting] = {}
        self.waits = False

    def wait_for(self, collections: Iterable[_HoldsMetrics]) -> None:
        """These collections' metrics are to be taken at the first batch."""
        self._due = [metric for collection in collections for metric in collection.metrics()]
        self.waits = bool(self._due)

    def take(self) -> None:
        """The first batch has come."""
        for metric in self._due:
            if id(metric) not in self._of_stage and used(metric):
                self._of_stage[id(metric)] = _Waiting(metric)
        self._due, self.waits = [], False

    def change_loader(self, metric: Any) -> None:
        """``metric`` may be used by another loader from now on."""
        if used(metric):
            self._of_loader[id(metric)] = _Waiting(metric)

    def put_back_unused(self) -> None:
        """The batches are over: give back the states of metrics that nobody has used since."""
        for waiting in self._of_loader.values():
            if not used(waiting.metric):
                waiting.put_back()
        self._of_loader = {}
        for key, waiting in list(self._of_stage.items()):
            if not used(waiting.metric):
                waiting.put_back()
                del self._of_stage[key]

    def put_back(self) -> None:
        """The stage that came between has been read: give back what the other had."""
        for waiting in self._of_stage.values():
            waiting.put_back()
        self.forget()

    def forget(self) -> None:
        """Drop everything."""
        self._due, self._of_stage, self._of_loader, self.waits = [], {}, {}, False

    def state_of(self, part: Any) -> dict[str, Any] | None:
        """The state of a stage's metric, or of one inside it, that waits here."""
        for waiting in self._of_stage.values():
            for owner, state, _ in waiting.parts:
                if owner is part:
                    return state
        return None
