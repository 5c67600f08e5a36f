"""The line after a training that waited for its data: its share, what to try, and when it is not said."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch
from kit import Clock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

import leyden
from leyden.inspect import waiting
from leyden.inspect.waiting import DataWait, line_about_waiting
from leyden.profilers import SimpleProfiler
from leyden.state.progress import Progress

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What tells the time of waiting, for a test to move."""
    mine = Clock()
    monkeypatch.setattr("leyden.inspect.waiting.time", SimpleNamespace(perf_counter=mine))
    return mine


class Slow(Dataset[Any]):
    """Samples, each of which takes its time."""

    def __init__(self, clock: Clock, seconds: float, samples: int = 40) -> None:
        self.clock, self.seconds, self.samples = clock, seconds, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Tensor:
        self.clock.now += self.seconds
        return torch.ones(2)


class Net(kit.Tiny):
    """A module whose step takes its time."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.now += self.seconds
        return super().training_step((batch,), batch_idx)


trainer = partial(kit.trainer, enable_model_summary=True)  # which makes a fit say how it begins and ends


def line_of(printed: str) -> str | None:
    lines = [line for line in printed.splitlines() if "Waiting for data" in line]
    assert len(lines) <= 1
    return lines[0] if lines else None


@pytest.mark.parametrize("epochs", [1, 3])
def test_one_line_says_what_was_waited_and_what_to_try(clock: Clock, epochs: int, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(max_epochs=epochs).fit(Net(clock, 0.1), DataLoader(Slow(clock, 0.3)))
    printed = capsys.readouterr().out
    said = line_of(printed)
    assert said is not None
    assert printed.splitlines()[-1] == said  # after the line with which training ends
    assert said.startswith("Waiting for data took 75% of the training time. To try: DataLoader(num_workers=")
    assert "persistent_workers=True" in said
    assert "__getitems__" in said
    assert "pin_memory" not in said  # nothing is copied to a device


@pytest.mark.parametrize(
    ("read", "step", "samples", "options"),
    [
        (0.1, 0.3, 40, {}),  # the model computes for longer than it waits
        (0.2, 0.2, 40, {}),
        (0.3, 0.1, 8, {}),  # too few batches to know
        (0.03, 0.01, 40, {}),  # too short a training to care
        (0.3, 0.1, 40, {"enable_model_summary": False}),  # nothing is said of the fit at all
        (0.3, 0.1, 40, {"fast_dev_run": 5}),
    ],
)
def test_nothing_is_said(
    clock: Clock, read: float, step: float, samples: int, options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(**options).fit(Net(clock, step), DataLoader(Slow(clock, read, samples)))
    assert line_of(capsys.readouterr().out) is None


def test_nothing_is_said_of_a_training_that_failed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise kit.Crash

    with pytest.raises(kit.Crash):
        trainer(kit.at_batch(39, fail)).fit(Net(clock, 0.1), DataLoader(Slow(clock, 0.3)))
    assert line_of(capsys.readouterr().out) is None


def test_validation_and_callbacks_are_no_waiting(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    class Busy(leyden.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            clock.now += 0.4

    trainer(Busy()).fit(Net(clock, 0.1), DataLoader(Slow(clock, 0.3)))
    assert line_of(capsys.readouterr().out) is None


def test_a_training_that_max_steps_or_a_wish_ends_is_measured_too(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    trainer(max_steps=30, max_epochs=-1).fit(Net(clock, 0.1), DataLoader(Slow(clock, 0.3)))
    assert "75%" in str(line_of(capsys.readouterr().out))


def test_a_profiler_counts_the_same_fetches(clock: Clock) -> None:
    profiler = SimpleProfiler()
    profiler.leyden_clock = clock
    run = trainer(profiler=profiler)
    run.fit(Net(clock, 0.1), DataLoader(Slow(clock, 0.3)))
    assert len(profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]) == 40
    assert run.leyden_fit.waiting is not None
    assert run.leyden_fit.waiting.waited == pytest.approx(profiler.leyden_parts()["data"])


# -- the estimate


def measured(waits: list[list[float]], step: float, clock: Clock, device: torch.device = CPU, **states: Any) -> DataWait:
    """What is measured of epochs whose batches take ``waits`` to come."""
    progress = Progress()
    wait = DataWait(device, progress)
    for epoch in waits:
        progress.batch = 0

        def batches(epoch: list[float] = epoch) -> Iterator[Any]:
            for index, seconds in enumerate(epoch):
                clock.now += seconds
                yield index, index, index + 1 == len(epoch)

        seen = []
        for batch, _, _ in wait.along(batches()):
            seen.append(batch)
            clock.now += step
            progress.batch += 1
        assert seen == list(range(len(epoch)))  # every batch, in order, once
    return wait


@pytest.mark.parametrize("batches", [1, 2, 3, 31, 32, 33, 34, 50, 100, 1000])
def test_even_waits_are_estimated_exactly(clock: Clock, batches: int) -> None:
    wait = measured([[0.5] * batches] * 3, 0.5, clock)
    assert wait.waited == pytest.approx(0.5 * 3 * batches) or batches < 3
    assert wait.seconds == pytest.approx(3.0 * batches)
    assert wait.fetches < 32 + 3 * (batches // 89 + 9)


@pytest.mark.parametrize("workers", [2, 3, 4, 7, 8, 16])
def test_batches_that_come_in_bursts_are_not_mistaken(clock: Clock, workers: int) -> None:
    """Each round of the workers is waited for once, and the others of its batches are there."""
    burst = [float(workers) if index % workers == 0 else 0.0 for index in range(8000)]
    wait = measured([burst], 1.0, clock)
    assert wait.share == pytest.approx(0.5, abs=0.12)


def test_a_slow_first_batch_counts_once(clock: Clock) -> None:
    wait = measured([[30.0] + [0.0] * 99] * 2, 1.0, clock)
    assert (wait.opening, wait.waited, wait.seconds) == (60.0, 60.0, 260.0)


def test_on_a_device_only_idle_time_is_waiting(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the device computes, the host loses nothing by waiting."""
    for states, share in (([False, False], 0.0), ([True, True], 0.9), ([False, True], 0.45)):
        answers = iter(states * 10000)
        monkeypatch.setattr(DataWait, "is_idle", lambda _, answers=answers: next(answers))
        assert measured([[0.9] * 64], 0.1, clock).share == pytest.approx(share)


def own_calls_of(batches: int) -> int:
    """Python calls, in a fit, of what measures."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == waiting.__file__

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        kit.trainer().fit(kit.Tiny(), kit.ones(batches))
    finally:
        sys.setprofile(before)
    return count


def test_it_costs_no_step_anything() -> None:
    """Between the few fetches that are measured it runs no Python at all: not a call in twenty steps."""
    assert own_calls_of(600) - own_calls_of(200) <= 400 / 20


# -- what to try


def advice(loader: Any, device: str = "cpu", opening: float = 0.0) -> str:
    wait = DataWait(CPU, Progress())
    wait.seconds, wait.waited, wait.opening, wait.fetches = 100.0, 80.0, opening, 50
    line = line_about_waiting(wait, loader, torch.device(device))
    assert line is not None
    return line


def test_advice_is_of_the_loader_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    data, tensors = Slow(Clock(), 0.0), TensorDataset(torch.ones(4, 2))
    assert "DataLoader(num_workers=5, persistent_workers=True)" in advice(DataLoader(data))
    assert "num_workers=5 instead of 2" in advice(DataLoader(data, num_workers=2))
    assert "num_workers" not in advice(DataLoader(data, num_workers=5))
    assert "persistent_workers" not in advice(DataLoader(data, num_workers=5))
    assert "persistent_workers=True" in advice(DataLoader(data, num_workers=5), opening=60.0)
    assert "persistent_workers" not in advice(DataLoader(data, num_workers=5, persistent_workers=True), opening=60.0)
    assert "pin_memory=True" in advice(DataLoader(data), "cuda")
    assert "pin_memory" not in advice(DataLoader(data, pin_memory=True), "cuda")
    assert "__getitems__" not in advice(DataLoader(tensors))
    assert "__getitems__" not in advice(DataLoader(kit.Stream([1, 2])))
    assert "num_workers=5" in advice({"a": [DataLoader(data)]})
    assert "DataLoader(num_workers=...)" in advice([[1], [2]])
