"""Which batches train, step and validate: real runs against a small simulator that shares no code with the loops."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import kit
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import leyden
from leyden.errors import LeydenWarning

QUIET = {**kit.QUIET, "num_sanity_val_steps": 0}


class Numbers(IterableDataset[Tensor]):
    """``count`` numbers; a length of ``says``, where it says one."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(1.0, self.count + 1).reshape(self.count, 1))


class Counted(Numbers):
    def __init__(self, count: int, says: int) -> None:
        super().__init__(count)
        self.says = says

    def __len__(self) -> int:
        return self.says


class Module(leyden.LightningModule):
    """The weight's gradient is the batch's mean, so that the weight tells which batches made it, and how they were weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight * batch.double().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Trace(leyden.Callback):
    """One entry an event: ``("epoch", e)``, ``("batch", index, steps so far)``, ``("validation",)``, ``("end", steps)``."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.events.append(("epoch", trainer.current_epoch))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.events.append(("batch", batch_idx, trainer.global_step))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self.events.append(("validation",))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.events.append(("end", trainer.global_step))


@dataclass(frozen=True)
class Plan:
    """A training, in the words of the Trainer's arguments."""

    there: int  # batches in the loader
    says: int | None  # batches that it says it has
    accumulate: int
    interval: int | float
    every_n_epochs: int | None
    max_epochs: int
    max_steps: int
    limit: int | None

    @property
    def expected(self) -> int:
        """Batches of an epoch."""
        known = self.there if self.says is None else min(self.there, self.says)
        return known if self.limit is None else min(known, self.limit)

    def simulate(self) -> tuple[list[tuple[Any, ...]], float]:
        events: list[tuple[Any, ...]] = []
        steps, seen, weight = 0, 0, 0.0
        for epoch in range(self.max_epochs):
            if steps == self.max_steps:
                break
            events.append(("epoch", epoch))
            window: list[int] = []
            for index in range(self.expected):
                window.append(index + 1)
                seen += 1
                last = index + 1 == self.expected
                # a loader that ends before its time did not know that this batch was the last
                surprised = last and self.surprises
                if len(window) == self.accumulate or (last and not surprised):
                    weight -= sum(window) / len(window)
                    window = []
                    steps += 1
                events.append(("batch", index, steps))
                if self.validates(epoch, index, last and not surprised, seen):
                    events.append(("validation",))
                if steps == self.max_steps:
                    break
                if surprised:
                    if window:
                        weight -= sum(window) / len(window)
                        steps += 1
                    if self.validates(epoch, index, True, seen) and events[-1] != ("validation",):
                        events.append(("validation",))
            events.append(("end", steps))
        return events, weight

    @property
    def surprises(self) -> bool:
        """Whether the loader ends before the length that it tells, and before the limit."""
        return self.says is not None and self.there < self.says and (self.limit is None or self.there < self.limit)

    def validates(self, epoch: int, index: int, last: bool, seen: int) -> bool:
        if self.every_n_epochs is None:
            return seen % self.interval == 0
        if (epoch + 1) % self.every_n_epochs:
            return False
        if isinstance(self.interval, int):
            return (index + 1) % self.interval == 0
        if self.interval == 1.0:
            return last
        length = self.says if self.limit is None or self.says is None else min(self.says, self.limit)
        assert length is not None
        return (index + 1) % max(1, int(length * self.interval)) == 0


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    there = draw(st.integers(1, 6))
    says = draw(st.sampled_from([None, there, there, there + 1, there + 3]))
    limit = draw(st.one_of(st.none(), st.integers(1, 7)))
    every = draw(st.sampled_from([None, 1, 1, 2, 3]))
    told = says if limit is None else (limit if says is None else min(says, limit))
    intervals: Any = st.integers(1, told or 4)
    if every is None:
        intervals = st.integers(1, 9)
    elif says is not None:
        intervals = st.one_of(intervals, st.sampled_from([1.0, 0.5, 0.25, 0.7]))
    else:
        intervals = st.one_of(intervals, st.just(1.0))
    return Plan(
        there=there,
        says=says,
        accumulate=draw(st.integers(1, 4)),
        interval=draw(intervals),
        every_n_epochs=every,
        max_epochs=draw(st.integers(1, 4)),
        max_steps=draw(st.sampled_from([-1, -1, 1, 2, 3, 5, 7])),
        limit=limit,
    )


def run(plan: Plan) -> tuple[list[tuple[Any, ...]], float]:
    data = Numbers(plan.there) if plan.says is None else Counted(plan.there, plan.says)
    trace, module = Trace(), Module()
    trainer = leyden.Trainer(
        **QUIET,
        callbacks=trace,
        max_epochs=plan.max_epochs,
        max_steps=plan.max_steps,
        accumulate_grad_batches=plan.accumulate,
        limit_train_batches=plan.limit,
        val_check_interval=plan.interval,
        check_val_every_n_epoch=plan.every_n_epochs,
    )
    with warnings.catch_warnings():
        if plan.says is not None and plan.there < plan.says:
            warnings.simplefilter("ignore", LeydenWarning)
            warnings.filterwarnings("ignore", "Length of IterableDataset", UserWarning)
        trainer.fit(module, DataLoader(data, batch_size=1), DataLoader(Numbers(1), batch_size=1))
    return trace.events, module.weight.item()


@settings(max_examples=300)
@given(plans())
def test_every_schedule_is_as_simulated(plan: Plan) -> None:
    events, weight = run(plan)
    expected, moved = plan.simulate()
    assert events == expected
    assert weight == pytest.approx(moved, rel=1e-12)


@pytest.mark.parametrize("given", [{"hours": 1}, "00:01:00:00"])
def test_an_interval_of_time_that_does_not_pass(given: Any) -> None:
    trace = Trace()
    trainer = leyden.Trainer(**QUIET, callbacks=trace, max_epochs=2, val_check_interval=given)
    trainer.fit(Module(), DataLoader(Numbers(3)), DataLoader(Numbers(1)))
    assert ("validation",) not in trace.events


@pytest.mark.parametrize("every", [1, None])
def test_an_interval_of_time_that_always_passes(every: int | None) -> None:
    trace = Trace()
    trainer = leyden.Trainer(
        **QUIET,
        callbacks=trace,
        max_epochs=1,
        val_check_interval=timedelta(microseconds=1),
        check_val_every_n_epoch=every,
    )
    trainer.fit(Module(), DataLoader(Numbers(2)), DataLoader(Numbers(1)))
    assert [event[0] for event in trace.events] == ["epoch", "batch", "validation", "batch", "validation", "end"]
