"""Counts of processes that are no longer there when a run goes on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import MaxMetric, Metric

from leyden.errors import LeydenWarning
from leyden.metrics.metric_objects import put_state, state_of


class OfEachProcess(Metric):
    """Keeps a state that processes do not merge."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("newest", torch.zeros(()), dist_reduce_fx=None)

    def update(self, value: Tensor) -> None:
        self.newest = value

    def compute(self) -> Tensor:
        return self.newest


def test_states_of_processes_that_are_gone_are_merged_as_torchmetrics_merges_them_or_it_is_said_that_they_are_not() -> None:
    def counted(metric: Any, *numbers: float) -> Any:
        metric.update(torch.tensor(numbers))
        return metric

    states = [state_of(counted(MaxMetric(), *numbers)) for numbers in ((1.0,), (5.0, 2.0), (3.0,))]
    metric = MaxMetric()
    put_state(metric, {**states[0], "more": states[1:]})
    assert metric.compute() == 5
    put_state(metric, {**state_of(MaxMetric()), "more": [states[2]]})  # where this process has counted nothing
    assert metric.compute() == 3
    own, other = (state_of(counted(OfEachProcess(), number)) for number in (1.0, 2.0))
    with pytest.warns(LeydenWarning, match="OfEachProcess cannot take over what the others had counted"):
        put_state(alone := OfEachProcess(), {**own, "more": [other]})
    assert alone.compute() == 1
