"""ThroughputMonitor: what is logged of each stage, by a clock that a test moves; and what a resumed run counts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from leyden.callbacks import ThroughputMonitor
from leyden.errors import InvalidOption, InvalidType, PossibleUserWarning, UnknownName
from leyden.loggers import Logger
from leyden.testing import Recorder


class Rows(Logger):
    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        row = {name: value for name, value in metrics.items() if "time" in name or "/" in name or "|" in name}
        if row:
            self.rows.append((step, row))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


class Timed(kit.Tiny):
    """A training step takes 2 s, and between them nothing takes any."""

    flops_per_batch: Any = 50

    def __init__(self, clock: kit.Clock) -> None:
        super().__init__()
        self.clock = clock

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.now += 2
        return super().training_step(batch, batch_idx)


class Evaluated(Timed):
    """An evaluation's step takes 1 s."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += 1

    test_step = predict_step = validation_step


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> kit.Clock:
    clock = kit.Clock()
    monkeypatch.setattr("leyden.callbacks.throughput_monitor.time", type("", (), {"perf_counter": staticmethod(clock)}))
    assert time.perf_counter is not clock
    return clock


def loader(batches: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.ones(3 * batches, 2)), batch_size=3)


def monitor(**given: Any) -> ThroughputMonitor:
    return ThroughputMonitor(**{"batch_size_fn": lambda batch: len(batch[0]), "window_size": 2, **given})


def test_training_s_rates_without_validation_s_time(clock: kit.Clock) -> None:
    rows = Rows()
    watched = monitor(length_fn=lambda batch: batch[0].numel(), available_flops=100.0)
    kit.fit(Evaluated(clock), loader(), loader(2), callbacks=[watched], logger=rows, log_every_n_steps=2, max_epochs=2)
    train = [(step, row) for step, row in rows.rows if "train/time" in row]
    assert [(step, row["train/time"], row["train/batches"]) for step, row in train] == [
        (1, 4, 2),
        (3, 8, 4),
        (5, 12, 6),
        (7, 16, 8),
    ]
    assert train[-1][1] == {
        "train/time": 16,
        "train/batches": 8,
        "train/samples": 24,
        "train/lengths": 48,
        "train/device/batches_per_sec": 0.5,
        "train/device/samples_per_sec": 1.5,
        "train/device/items_per_sec": 3,
        "train/device/flops_per_sec": 25,
        "train/device/mfu": 0.25,
    }
    validate = [(step, row) for step, row in rows.rows if "validate/time" in row]
    assert [(step, row["validate/time"], row["validate/samples"]) for step, row in validate] == [(2, 2, 6), (4, 2, 6)]


def test_other_verbs_and_their_names(clock: kit.Clock) -> None:
    rows = Rows()
    run = kit.trainer(monitor(separator="|"), logger=rows, log_every_n_steps=1)
    module = Evaluated(clock)
    run.validate(module, loader(2), verbose=False)
    run.test(module, loader(2), verbose=False)
    run.predict(module, loader(2))
    run.test(module, loader(1), verbose=False)
    told = [(step, word) for step, row in rows.rows for word in ("validate", "test", "predict") if f"{word}|time" in row]
    assert told == [(1, "validate"), (2, "validate"), (1, "test"), (2, "test"), (1, "predict"), (2, "predict"), (1, "test")]
    assert rows.rows[1][1]["validate|device|samples_per_sec"] == 3
    assert rows.rows[-1][1]["test|samples"] == 3
    assert float(run.logged_metrics["test|samples"]) == 3


def test_accumulated_batches_are_logged_with_their_step(clock: kit.Clock) -> None:
    rows = Rows()
    options = {"callbacks": [monitor()], "logger": rows, "log_every_n_steps": 1, "accumulate_grad_batches": 2}
    kit.fit(Timed(clock), loader(5), **options)
    assert [(step, row["train/batches"]) for step, row in rows.rows] == [(0, 2), (1, 4), (2, 5)]


def test_the_sanity_check_is_not_measured_and_nothing_is_logged_with_0(clock: kit.Clock) -> None:
    rows = Rows()
    kit.fit(Evaluated(clock), loader(), loader(), callbacks=[monitor()], logger=rows, log_every_n_steps=0, num_sanity_val_steps=2)
    assert rows.rows == []
    kit.fit(
        Evaluated(clock), loader(), loader(2), callbacks=[monitor()], logger=rows, log_every_n_steps=1, num_sanity_val_steps=2
    )
    assert [step for step, row in rows.rows if "validate/time" in row] == [1, 2]


def test_a_resumed_run_goes_on_with_its_counts(clock: kit.Clock, tmp_path: Path) -> None:
    whole, rows = Rows(), Rows()
    options: dict[str, Any] = {"log_every_n_steps": 1, "max_epochs": 2}
    save = Recorder(on_train_batch_end=lambda run, *_: run.save_checkpoint(tmp_path / f"{run.global_step}.ckpt"))
    kit.fit(Evaluated(clock), loader(), loader(2), callbacks=[monitor(), save], logger=whole, **options)
    kit.fit(Evaluated(clock), loader(), loader(2), callbacks=[monitor()], logger=rows, ckpt_path=tmp_path / "6.ckpt", **options)
    counts = ("train/time", "train/batches", "train/samples", "validate/batches")
    told = [[(step, *(row.get(name) for name in counts)) for step, row in each.rows] for each in (whole, rows)]
    assert told[1] == told[0][-4:]


def test_on_cuda_the_device_s_clock_is_read_only_where_it_is_logged(clock: kit.Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.at = clock.now

        def synchronize(self) -> None:
            waited.append(self.at)

        def elapsed_time(self, other: Any) -> float:
            return 1000 * float(other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(
        "leyden.callbacks.throughput_monitor.Stopwatch.__init__", lambda self, device: setattr(self, "on_cuda", True)
    )
    rows = Rows()
    at: list[int] = []
    watch = Recorder(on_train_batch_end=lambda run, *_: at.append(len(waited)))
    kit.fit(Timed(clock), loader(6), callbacks=[monitor(window_size=3), watch], logger=rows, log_every_n_steps=3)
    assert at == [0, 0, 3, 3, 3, 6]
    assert [row["train/time"] for _, row in rows.rows] == [6, 12]
    assert rows.rows[-1][1]["train/device/samples_per_sec"] == 1.5


def test_counts_may_be_tensors(clock: kit.Clock) -> None:
    rows = Rows()
    counts = {"batch_size_fn": lambda batch: torch.tensor(3), "length_fn": lambda batch: batch[0].sum()}
    kit.fit(Timed(clock), loader(1), callbacks=[monitor(**counts)], logger=rows, log_every_n_steps=1)
    assert (rows.rows[0][1]["train/samples"], rows.rows[0][1]["train/lengths"]) == (3, 6)


# -- bad input
def test_a_module_that_does_not_tell_its_operations_is_told_so_once(clock: kit.Clock) -> None:
    rows = Rows()
    with pytest.warns(PossibleUserWarning, match=r"Tiny has no `flops_per_batch`\. .*measure_flops") as told:
        kit.fit(kit.Tiny(), kit.ones(3), callbacks=[monitor(batch_size_fn=lambda batch: 1)], logger=rows, log_every_n_steps=1)
    assert len(told) == 1
    assert "train/device/samples_per_sec" in rows.rows[-1][1]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"batch_size_fn": lambda: 3}, InvalidType, "cannot be called with one value: too many positional arguments"),
        ({"length_fn": lambda a, b: 3}, InvalidType, "cannot be called with one value: missing a required argument: 'b'"),
        ({"batch_size_fn": 3}, InvalidType, "batch_size_fn=3 cannot be used: expected a function of a batch"),
        ({"length_fn": 3}, InvalidType, "length_fn=3"),
        ({"window_size": 1}, InvalidOption, "window_size=1"),
        ({"windowsize": 3}, UnknownName, "Did you mean 'window_size'"),
    ],
)
def test_arguments_that_cannot_be_used(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        monitor(**given)
    with pytest.raises(TypeError):
        ThroughputMonitor()  # type: ignore[call-arg]  # the mistake under test


@pytest.mark.parametrize(("size", "items", "text"), [("many", 4, "what batch_size_fn returned='many'"), (3, 0, "what length_fn")])
def test_functions_that_return_no_number_are_told(size: Any, items: Any, text: str, clock: kit.Clock) -> None:
    with pytest.raises(InvalidOption, match=text):
        kit.fit(Timed(clock), loader(), callbacks=[monitor(batch_size_fn=lambda _: size, length_fn=lambda _: items)])
