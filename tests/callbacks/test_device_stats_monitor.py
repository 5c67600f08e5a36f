"""DeviceStatsMonitor: which figures are logged, when, and what it needs."""

from __future__ import annotations

import sys
from typing import Any

import kit
import pytest
import torch

import leyden
from leyden.callbacks import DeviceStatsMonitor
from leyden.errors import ConflictingOptions, InvalidType, MissingPackage
from leyden.loggers import Logger
from leyden.testing import BoringModel

CPU = {"cpu_percent", "cpu_vm_percent", "cpu_swap_percent"}


class Rows(Logger):
    """Keeps what it is given."""

    def __init__(self, separator: str = "/") -> None:
        self.rows: list[tuple[int | None, dict[str, Any]]] = []
        self.separator = separator

    name, version = "rows", 0

    @property
    def group_separator(self) -> str:
        return self.separator

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    def of(self, hook: str) -> list[tuple[int | None, set[str]]]:
        """The rows of a hook: their steps, and the figures in them."""
        prefix = f"DeviceStatsMonitor.{hook}{self.separator}"
        found = [(step, {name.removeprefix(prefix) for name in row if name.startswith(prefix)}) for step, row in self.rows]
        return [(step, names) for step, names in found if names]


@pytest.fixture(autouse=True)
def psutil(monkeypatch: pytest.MonkeyPatch) -> Any:
    return pytest.importorskip("psutil")


def run(rows: Rows, *verbs: str, cpu_stats: bool | None = None, **options: Any) -> None:
    given = {
        "max_epochs": 2,
        "limit_train_batches": 4,
        "limit_val_batches": 2,
        "limit_test_batches": 2,
        "logger": rows,
        **options,
    }
    trainer = kit.trainer(DeviceStatsMonitor(cpu_stats), **given)
    for verb in verbs or ("fit",):
        getattr(trainer, verb)(BoringModel())


def test_figures_at_both_ends_of_every_nth_step_of_each_stage() -> None:
    rows = Rows()
    run(rows, "fit", "test", log_every_n_steps=2)
    assert rows.of("on_train_batch_start") == rows.of("on_train_batch_end") == [(1, CPU), (3, CPU), (5, CPU), (7, CPU)]
    assert rows.of("on_validation_batch_start") == rows.of("on_validation_batch_end") == [(3, CPU), (7, CPU)]
    assert rows.of("on_test_batch_start") == rows.of("on_test_batch_end") == [(8, CPU)]


def test_steps_are_counted_where_batches_are_accumulated_and_the_sanity_check_is_no_validation() -> None:
    rows = Rows(".")
    run(rows, log_every_n_steps=1, accumulate_grad_batches=2, max_epochs=1, num_sanity_val_steps=2)
    assert rows.of("on_train_batch_start") == [(0, CPU), (0, CPU), (1, CPU), (1, CPU)]
    assert rows.of("on_train_batch_end") == [(0, CPU), (0, CPU), (1, CPU), (1, CPU)]
    assert len(rows.of("on_validation_batch_end")) == 2
    rows = Rows()
    run(rows, log_every_n_steps=0)
    assert rows.of("on_train_batch_start") == []


def test_the_cpu_s_figures_may_be_left_out_or_stand_beside_a_device_s(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    run(rows, cpu_stats=False, log_every_n_steps=1)
    assert rows.of("on_train_batch_start") == []

    class Other(leyden.accelerators.CPUAccelerator):
        def get_device_stats(self, device: Any) -> dict[str, Any]:
            return {"memory": 7}

    for cpu_stats, expected in ((None, {"memory"}), (True, {"memory", *CPU}), (False, {"memory"})):
        rows, monitor = Rows(), DeviceStatsMonitor(cpu_stats)
        trainer = kit.trainer(monitor, logger=rows, log_every_n_steps=1, max_steps=1)
        trainer.fit(BoringModel())
        rows.rows.clear()
        monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("cuda"))  # as it is seen from here
        monkeypatch.setattr(type(trainer), "accelerator", Other())
        monitor.on_test_batch_start(trainer, BoringModel(), None, 0)
        assert [names for _, names in rows.of("on_test_batch_start")] == [expected]
        monkeypatch.undo()


def test_values_are_numbers_that_a_table_takes(tmp_path: Any) -> None:
    logger = leyden.loggers.CSVLogger(tmp_path)
    kit.fit(BoringModel(), logger=logger, log_every_n_steps=1, max_steps=2, callbacks=[DeviceStatsMonitor()])
    table = kit.rows(logger.log_dir)
    assert 0 <= float(table[0]["DeviceStatsMonitor.on_train_batch_start/cpu_vm_percent"]) <= 100
    assert [row["step"] for row in table] == ["0", "0", "1", "1"]


def test_what_it_needs_is_told_before_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConflictingOptions, match=r"DeviceStatsMonitor writes to a logger, and Trainer\(logger=False\) has none"):
        run(Rows(), logger=False)
    run(Rows(), logger=False, fast_dev_run=True)
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(MissingPackage, match=r"DeviceStatsMonitor, where it watches the CPU, needs .*'psutil'.* pip install"):
        run(Rows())
    run(Rows(), cpu_stats=False)
    with pytest.raises(InvalidType, match="cpu_stats='yes'"):
        DeviceStatsMonitor("yes")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(TypeError, match="Did you mean 'cpu_stats'"):
        DeviceStatsMonitor(cpu_stat=True)  # type: ignore[call-arg]  # the mistake under test
