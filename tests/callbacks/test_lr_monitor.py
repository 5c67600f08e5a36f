"""LearningRateMonitor: names, when it logs, and what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from kit import Tiny, fit, ones
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import leyden
from leyden.callbacks import LearningRateMonitor
from leyden.errors import ConflictingOptions, InvalidOption, InvalidReturn, LeydenWarning, MisconfigurationException
from leyden.loggers import Logger


class Rows(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, Any]]] = []

    @property
    def name(self) -> str:
        return "rows"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        row = {name: value for name, value in metrics.items() if name != "epoch"}
        if row:
            self.rows.append((step, row))


class Configured(Tiny):
    def __init__(self, configure: Callable[[Any], Any], manual: bool = False) -> None:
        super().__init__()
        self.configure = configure
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.automatic_optimization:
            return super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()
        return None

    def configure_optimizers(self) -> Any:
        return self.configure(self)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.layer.weight]}, {"params": [self.layer.bias], "lr": 0.5}]


def run(configure: Callable[[Any], Any], epochs: int = 1, manual: bool = False, monitor: Any = None, **options: Any) -> Any:
    monitor = monitor or LearningRateMonitor()
    rows = Rows()
    options = {"max_epochs": epochs, "log_every_n_steps": options.pop("every", 2), **options}
    trainer = fit(Configured(configure, manual), ones(4), callbacks=[monitor], logger=rows, **options)
    return monitor, rows.rows, trainer


def scheduled(optimizer: Any, **config: Any) -> Any:
    return [optimizer], [{"scheduler": StepLR(optimizer, 1), **config}]


def test_without_a_scheduler_at_epochs_and_steps() -> None:
    monitor, rows, trainer = run(lambda m: Adam(m.parameters()), epochs=2)
    assert rows == [(x, {"lr-Adam": 0.001}) for x in (0, 1, 3, 4, 5, 7)]
    assert monitor.lrs == {"lr-Adam": [0.001] * 6}
    assert float(trainer.callback_metrics["lr-Adam"]) == 0.001


def test_by_steps_where_the_scheduler_steps_so() -> None:
    monitor, rows, _ = run(lambda m: scheduled(SGD(m.parameters(), 1.0), interval="step"))
    assert [x for x, _ in rows] == [1, 3]
    assert monitor.lrs["lr-SGD"] == pytest.approx([0.1, 0.001])


def test_by_epochs_where_the_scheduler_steps_so() -> None:
    monitor, rows, _ = run(lambda m: scheduled(SGD(m.parameters(), 1.0)), epochs=2)
    assert [x for x, _ in rows] == [0, 4]
    assert monitor.lrs["lr-SGD"] == pytest.approx([1.0, 0.1])


def test_by_what_the_scheduler_steps_that_another_callback_put_in_its_place() -> None:
    class Replaces(leyden.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 6:
                trainer.lr_scheduler_configs[0].interval = "epoch"

    monitor = LearningRateMonitor()
    options: dict[str, Any] = {"callbacks": [monitor, Replaces()], "max_epochs": 3, "log_every_n_steps": 2, "logger": Rows()}
    trainer = fit(Configured(lambda m: scheduled(SGD(m.parameters(), 1.0), interval="step")), ones(4), **options)
    assert [x for x, _ in trainer.logger.rows] == [1, 3, 5, 8]


@pytest.mark.parametrize(("interval", "xs"), [("epoch", [0, 4]), ("step", [1, 3, 5, 7])])
def test_logging_interval_decides(interval: str, xs: list[int]) -> None:
    other = "step" if interval == "epoch" else "epoch"
    monitor = LearningRateMonitor(logging_interval=interval)
    _, rows, _ = run(lambda m: scheduled(SGD(m.parameters(), 1.0), interval=other), epochs=2, monitor=monitor)
    assert [x for x, _ in rows] == xs


def test_once_a_step_under_accumulation() -> None:
    _, rows, _ = run(lambda m: scheduled(SGD(m.parameters(), 1.0), interval="step"), every=1, accumulate_grad_batches=2)
    assert [x for x, _ in rows] == [0, 1]


def test_nothing_a_step_where_steps_are_not_logged() -> None:
    _, rows, _ = run(lambda m: Adam(m.parameters()), every=0)
    assert [x for x, _ in rows] == [0]


def test_momentum_and_weight_decay() -> None:
    monitor = LearningRateMonitor(log_momentum=True, log_weight_decay=True)
    _, rows, _ = run(lambda m: Adam(m.parameters(), weight_decay=0.1), monitor=monitor)
    assert rows[0] == (0, {"lr-Adam": 0.001, "lr-Adam-momentum": 0.9, "lr-Adam-weight_decay": 0.1})
    assert monitor.last_momentum_values == {"lr-Adam-momentum": 0.9}
    assert monitor.last_weight_decay_values == {"lr-Adam-weight_decay": 0.1}
    monitor = LearningRateMonitor(log_momentum=True)
    run(lambda m: SGD(m.parameters(), 0.1, momentum=0.7), monitor=monitor)
    assert monitor.last_momentum_values == {"lr-SGD-momentum": 0.7}


def named(m: Any) -> Any:
    first, second = m.groups()
    return SGD([{**first, "name": "w"}, {**second, "name": "b"}], 0.1)


@pytest.mark.parametrize(
    ("configure", "manual", "names"),
    [
        (lambda m: SGD(m.groups(), 0.1), False, ["lr-SGD/pg1", "lr-SGD/pg2"]),
        (named, False, ["lr-SGD/w", "lr-SGD/b"]),
        (lambda m: scheduled(SGD(m.parameters(), 0.1), name="mine"), False, ["mine"]),
        (lambda m: scheduled(SGD(m.groups(), 0.1), name="mine"), False, ["mine/pg1", "mine/pg2"]),
        (lambda m: [Adam(m.parameters()), Adam(m.parameters())], True, ["lr-Adam", "lr-Adam-1"]),
        (lambda m: [Adam(m.parameters()), SGD(m.parameters(), 0.1)], True, ["lr-Adam", "lr-SGD"]),
    ],
)
def test_names(configure: Any, manual: bool, names: list[str]) -> None:
    monitor, rows, _ = run(configure, manual=manual)
    assert list(monitor.lrs) == names
    assert list(rows[0][1]) == names


def test_groups_that_are_added_later_are_logged() -> None:
    monitor = LearningRateMonitor(logging_interval="epoch")

    class Thaws(leyden.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 0:
                trainer.optimizers[0].add_param_group({"params": [nn.Parameter(torch.ones(1))], "lr": 0.5})

    rows = Rows()
    fit(Configured(lambda m: SGD(m.parameters(), 0.1)), ones(2), max_epochs=2, callbacks=[monitor, Thaws()], logger=rows)
    assert rows.rows == [(0, {"lr-SGD": 0.1}), (2, {"lr-SGD/pg1": 0.1, "lr-SGD/pg2": 0.5})]


def test_a_plateau_scheduler_has_an_interval_too() -> None:
    class Logs(Configured):
        def on_train_epoch_end(self) -> None:
            self.log("x", 1.0)

    def configure(m: Any) -> Any:
        optimizer = SGD(m.parameters(), 0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ReduceLROnPlateau(optimizer), "monitor": "x"}}

    rows = Rows()
    fit(Logs(configure), ones(2), callbacks=[LearningRateMonitor()], logger=rows)
    assert (0, {"lr-SGD": 0.1}) in rows.rows


def test_rates_that_are_tensors_are_read_when_they_are_written() -> None:
    monitor, rows, _ = run(lambda m: scheduled(Adam(m.parameters(), lr=torch.tensor(1.0)), interval="step"), every=1)
    assert [row["lr-Adam"] for _, row in rows] == pytest.approx([1.0, 0.1, 0.01, 0.001])
    assert [float(rate) for rate in monitor.lrs["lr-Adam"]] == pytest.approx([1.0, 0.1, 0.01, 0.001])


def test_no_optimizer_no_rate() -> None:
    with pytest.warns(LeydenWarning, match="without an optimizer"):
        monitor, rows, _ = run(lambda m: None)
    assert rows == []
    assert monitor.lrs == {}


def test_two_groups_of_one_name_are_refused() -> None:
    def configure(m: Any) -> Any:
        first, second = m.groups()
        return SGD([{**first, "name": "w"}, {**second, "name": "w"}], 0.1)

    with pytest.raises(InvalidReturn, match="share the name 'w'") as caught:
        run(configure)
    assert isinstance(caught.value, MisconfigurationException)


def test_it_needs_a_logger() -> None:
    with pytest.raises(ConflictingOptions, match="LearningRateMonitor writes to a logger"):
        fit(Configured(lambda m: Adam(m.parameters())), ones(2), callbacks=[LearningRateMonitor()])


def test_bad_interval() -> None:
    with pytest.raises(InvalidOption, match="logging_interval='batch'"):
        LearningRateMonitor("batch")
