"""`self.log` through the trainer: what is seen where, under which name, in which row, and where it is refused."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import kit
import numpy as np
import pytest
import torch
import torchmetrics
from kit import Stream
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import Callback, EarlyStopping, ModelCheckpoint
from leyden.errors import AmbiguousBatchSize, IllegalLog, LeydenWarning, MissingMonitor
from leyden.hooks import HOOK_NAMES
from leyden.loggers import CSVLogger
from leyden.metrics.logged import WHERE_LEGAL

pytestmark = pytest.mark.filterwarnings("ignore:.*there is no validation loader:leyden.errors.PossibleUserWarning")

BOTH: dict[str, Any] = {"on_step": True, "on_epoch": True}
EPOCH: dict[str, Any] = {"on_step": False, "on_epoch": True}


def numbers(count: int, batch_size: int, first: float = 0.0) -> DataLoader[Any]:
    """0, 1, 2 ... in batches, so that every mean is known."""
    return DataLoader(TensorDataset(torch.arange(float(count))[:, None] + first), batch_size=batch_size)


class Logs(leyden.LightningModule):
    """Runs the function given for a hook in it; every step gets the batch's mean as ``value``."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.does = hooks
        self.seen: list[tuple[str, dict[str, float], dict[str, float], dict[str, float]]] = []

    def look(self, place: str) -> None:
        trainer = self.trainer
        bar = {name: value for name, value in trainer.progress_bar_metrics.items() if name != "loss"}
        self.seen.append((place, plain(trainer.callback_metrics), plain(trainer.logged_metrics), bar))

    def at(self, place: str) -> dict[str, float]:
        """What `callback_metrics` held when it was last looked at in ``place``."""
        return [callback for where, callback, _, _ in self.seen if where == place][-1]

    def run_hook(self, name: str, *arguments: Any) -> None:
        if name in self.does:
            self.does[name](self, *arguments)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (x,) = batch
        self.run_hook("training_step", x.mean(), batch_idx)
        self.look("training_step")
        return self.layer(x).mean()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.run_hook("validation_step", batch[0].mean(), batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.run_hook("test_step", batch[0].mean(), batch_idx, dataloader_idx)

    def on_train_start(self) -> None:
        self.run_hook("on_train_start")

    def on_train_epoch_start(self) -> None:
        self.run_hook("on_train_epoch_start")

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.run_hook("on_train_batch_end", batch_idx)
        self.look("on_train_batch_end")

    def on_validation_epoch_end(self) -> None:
        self.run_hook("on_validation_epoch_end")
        self.look("on_validation_epoch_end")

    def on_test_epoch_end(self) -> None:
        self.run_hook("on_test_epoch_end")

    def on_train_epoch_end(self) -> None:
        self.run_hook("on_train_epoch_end")
        self.look("on_train_epoch_end")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def plain(values: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in values.items()}


def fitted(module: Logs, train: Any = None, val: Any = None, **keywords: Any) -> leyden.Trainer:
    return kit.fit(module, numbers(7, 2) if train is None else train, val, **keywords)


def rows_of(folder: Path) -> list[dict[str, float]]:
    with open(folder / "x" / "version_0" / "metrics.csv") as file:
        return [{name: float(value) for name, value in row.items() if value != ""} for row in csv.DictReader(file)]


def csv_logger(folder: Path) -> CSVLogger:
    return CSVLogger(folder, name="x", version=0)


# -- names and values, at every point


def test_what_is_seen_when() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", value)
        module.log("b", value, **BOTH)
        module.log("c", value, prog_bar=True, **EPOCH)
        module.log("d", value, prog_bar=True, logger=False)

    module = Logs(training_step=training_step)
    trainer = fitted(module)
    step = {"a": 0.5, "b": 0.5, "b_step": 0.5, "d": 0.5}
    assert module.seen[0] == ("training_step", step, {"a": 0.5, "b_step": 0.5}, {"d": 0.5})
    assert module.seen[1] == ("on_train_batch_end", step, {"a": 0.5, "b_step": 0.5}, {"d": 0.5})
    last = {"a": 6.0, "b_step": 6.0, "d": 6.0, "b": 3.0, "b_epoch": 3.0, "c": 3.0}
    assert module.at("on_train_epoch_end") == last
    assert plain(trainer.callback_metrics) == last
    assert plain(trainer.logged_metrics) == {"a": 6.0, "b_step": 6.0, "b_epoch": 3.0, "c": 3.0}
    assert trainer.progress_bar_metrics == {"c": 3.0, "d": 6.0}


def test_validation_s_metrics_are_seen_at_its_end_and_after() -> None:
    def validation_step(module: Logs, value: Tensor, index: int, loader: int) -> None:
        module.log("v", value, prog_bar=True)
        module.log("w", value, **BOTH)
        module.log("x", value, on_step=True, on_epoch=False)

    module = Logs(validation_step=validation_step, on_validation_epoch_end=lambda module: module.log("end", 4))
    trainer = fitted(module, val=numbers(3, 2))
    assert module.at("training_step") == {}, "the sanity check left something"
    expected = {"v": 1.0, "w": 1.0, "w_epoch": 1.0, "end": 4.0}
    assert module.at("on_validation_epoch_end") == module.at("on_train_epoch_end") == plain(trainer.callback_metrics) == expected
    assert plain(trainer.logged_metrics) == {"v": 1.0, "w_epoch": 1.0, "w_step": 2.0, "x": 2.0, "end": 4.0}


def test_a_value_logged_before_the_first_batch_belongs_to_the_first_epoch(tmp_path: Path) -> None:
    module = Logs(
        on_train_start=lambda module: module.log("start", 1),
        on_train_epoch_start=lambda module: module.log("epoch_start", module.current_epoch),
    )
    fitted(module, val=numbers(2, 2), max_epochs=2, logger=csv_logger(tmp_path))
    assert module.at("training_step") == {"start": 1.0, "epoch_start": 1.0}
    assert rows_of(tmp_path) == [
        {"start": 1.0, "epoch_start": 0.0, "epoch": 0.0, "step": 3.0},
        {"epoch_start": 1.0, "epoch": 1.0, "step": 7.0},
    ]


def test_validate_and_test_return_their_own_values_only() -> None:
    module = Logs(
        training_step=lambda module, value, index: module.log("t", value, **BOTH),
        validation_step=lambda module, value, index, loader: module.log("v", value, **BOTH),
        test_step=lambda module, value, index, loader: module.log("s", value, on_step=True, on_epoch=False),
        on_test_epoch_end=lambda module: module.log("end", 9),
    )
    trainer = fitted(module, val=numbers(3, 2))
    assert trainer.validate(module, numbers(5, 2), verbose=False) == [{"v_epoch": 2.0}]
    assert plain(trainer.callback_metrics) == {"v": 2.0, "v_epoch": 2.0}
    assert trainer.test(module, numbers(5, 2), verbose=False) == [{"end": 9}]
    assert plain(trainer.callback_metrics) == {"end": 9.0}
    assert plain(trainer.logged_metrics) == {"s": 4.0, "end": 9.0}


def test_a_later_stage_s_value_replaces_one_of_the_same_name() -> None:
    module = Logs(
        training_step=lambda module, value, index: module.log("loss", value),
        validation_step=lambda module, value, index, loader: module.log("loss", value + 100),
    )
    fitted(module, val=numbers(3, 2))
    assert module.at("on_validation_epoch_end") == {"loss": 101.0}


def test_a_name_may_be_logged_in_several_hooks() -> None:
    module = Logs(
        training_step=lambda module, value, index: module.log("loss", value, **BOTH),
        on_train_epoch_end=lambda module: module.log("loss_epoch", 7.0),
    )
    assert plain(fitted(module).callback_metrics) == {"loss": 3.0, "loss_step": 6.0, "loss_epoch": 7.0}


def test_a_value_logged_now_and_then_weighs_its_own_batches_only() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        if index % 2:
            module.log("now_and_then", value, **BOTH)

    assert plain(fitted(Logs(training_step=training_step)).callback_metrics) == {
        "now_and_then": pytest.approx((2 * 2.5 + 6.0) / 3),
        "now_and_then_step": 6.0,
        "now_and_then_epoch": pytest.approx((2 * 2.5 + 6.0) / 3),
    }


def test_two_values_of_one_name_in_one_batch_both_count() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", value, **EPOCH)
        module.log("a", value + 1, **EPOCH)

    assert plain(fitted(Logs(training_step=training_step)).callback_metrics) == {"a": 3.5}


# -- rows


def test_rows_and_their_steps(tmp_path: Path) -> None:
    module = Logs(
        training_step=lambda module, value, index: module.log("a", value, **BOTH),
        validation_step=lambda module, value, index, loader: module.log("v", value, **BOTH),
    )
    trainer = fitted(module, numbers(6, 2), numbers(4, 2), max_epochs=2, log_every_n_steps=2, logger=csv_logger(tmp_path))
    trainer.validate(module, numbers(2, 2), verbose=False)
    assert rows_of(tmp_path) == [
        {"a_step": 2.5, "epoch": 0.0, "step": 1.0},
        {"v_step": 0.5, "step": 0.0},
        {"v_step": 2.5, "step": 1.0},
        {"v_epoch": 1.5, "epoch": 0.0, "step": 2.0},
        {"a_epoch": 2.5, "epoch": 0.0, "step": 2.0},
        {"a_step": 0.5, "epoch": 1.0, "step": 3.0},
        {"a_step": 4.5, "epoch": 1.0, "step": 5.0},
        {"v_step": 0.5, "step": 2.0},  # validation's own axis goes on
        {"v_step": 2.5, "step": 3.0},
        {"v_epoch": 1.5, "epoch": 1.0, "step": 5.0},
        {"a_epoch": 2.5, "epoch": 1.0, "step": 5.0},
        {"v_step": 0.5, "step": 0.0},
        {"v_epoch": 0.5, "epoch": 2.0, "step": 6.0},
    ]


def test_under_accumulation_a_row_stands_at_each_optimizer_step(tmp_path: Path) -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value))
    fitted(module, numbers(10, 2), accumulate_grad_batches=2, log_every_n_steps=1, logger=csv_logger(tmp_path))
    assert [(row["a"], row["step"]) for row in rows_of(tmp_path)] == [(2.5, 0.0), (6.5, 1.0), (8.0 + 0.5, 2.0)]


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3]), (3, [2]), (50, []), (0, [])])
def test_log_every_n_steps(tmp_path: Path, every: int, steps: list[int]) -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value, **BOTH))
    fitted(module, log_every_n_steps=every, logger=csv_logger(tmp_path))
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows if "a_step" in row] == steps
    assert [row["a_epoch"] for row in rows if "a_epoch" in row] == [3.0]


def test_every_logger_gets_the_same_rows(tmp_path: Path) -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value, **BOTH))
    fitted(module, log_every_n_steps=1, logger=[csv_logger(tmp_path / "1"), csv_logger(tmp_path / "2")])
    assert rows_of(tmp_path / "1") == rows_of(tmp_path / "2")
    assert len(rows_of(tmp_path / "1")) == 5


def test_what_is_not_for_the_logger_is_in_no_row(tmp_path: Path) -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", value)
        module.log("secret", value, logger=False, **BOTH)

    trainer = fitted(Logs(training_step=training_step), log_every_n_steps=1, logger=csv_logger(tmp_path))
    assert {name for row in rows_of(tmp_path) for name in row} == {"a", "epoch", "step"}
    assert plain(trainer.logged_metrics) == {"a": 6.0}
    assert plain(trainer.callback_metrics) == {"a": 6.0, "secret": 3.0, "secret_step": 6.0, "secret_epoch": 3.0}


def test_the_x_axis_can_be_logged_under_the_name_step(tmp_path: Path) -> None:
    def at_epoch_end(module: Logs) -> None:
        module.log_dict({"a": 1.0, "step": float(module.current_epoch)})

    fitted(Logs(on_train_epoch_end=at_epoch_end), max_epochs=2, logger=csv_logger(tmp_path))
    assert rows_of(tmp_path) == [{"a": 1.0, "step": 0.0}, {"a": 1.0, "step": 1.0}]


def test_integers_reach_the_file_whole(tmp_path: Path) -> None:
    fitted(Logs(on_train_epoch_end=lambda module: module.log("n", 16777217)), logger=csv_logger(tmp_path))
    assert [row["n"] for row in rows_of(tmp_path)] == [16777217]


# -- what can be logged


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        (True, 1),
        (2.5, 2.5),
        (16777217, 16777217),
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(7), 7),
        (np.bool_(True), 1),
        (np.array(4.0), 4.0),
        (np.array([4.0]), 4.0),
        (Fraction(1, 4), 0.25),
        (Decimal("0.5"), 0.5),
        (torch.tensor(2), 2),
        (torch.tensor(16777217), 16777217),
        (torch.tensor(True), 1),
        (torch.tensor([1.5]), 1.5),
        (torch.tensor([[[1.5]]]), 1.5),
        (torch.tensor(1.5, dtype=torch.float16), 1.5),
        (torch.tensor(1.5, dtype=torch.bfloat16), 1.5),
        (torch.tensor(0.1, dtype=torch.float64), 0.1),
        (torch.tensor(7, dtype=torch.uint8), 7),
        (torch.tensor(1.5, requires_grad=True), 1.5),
        (nn.Parameter(torch.tensor(1.5)), 1.5),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_values_of_every_kind(value: Any, expected: float) -> None:
    module = Logs(training_step=lambda module, mean, index: module.log("a", value, **BOTH))
    trainer = fitted(module)
    assert plain(trainer.callback_metrics) == {"a": expected, "a_step": expected, "a_epoch": expected}
    assert all(metric.dim() == 0 and not metric.requires_grad for metric in trainer.callback_metrics.values())


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("0.5", "got str. What can be logged: a tensor with one element, a number, or a torchmetrics metric."),
        (None, "got NoneType. What can be logged"),
        ([1.0], "got list. What can be logged"),
        (np.zeros(3), "got ndarray. What can be logged"),
        (1j, "got complex. What can be logged"),
        ({"a": 1.0}, "got a dict. Use self.log_dict for several values."),
        (torchmetrics.MetricCollection([torchmetrics.MeanMetric()]), "got a MetricCollection. Use self.log_dict"),
        (torch.zeros(3), "got a tensor of shape (3,). Only single values can be logged: reduce it, for example by .mean()."),
        (torch.zeros(0), "got a tensor of shape (0,)."),
        (torch.tensor(1j), "got a complex tensor. Log its real and imaginary parts."),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_values_that_cannot_be_logged(value: Any, complaint: str) -> None:
    module = Logs(training_step=lambda module, mean, index: module.log("a", value))
    with pytest.raises(IllegalLog, match=re.escape(f"self.log('a', ...) {complaint}")):
        fitted(module)


def test_a_value_that_turns_bad_later_is_refused_too() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", value if index == 0 else "text")

    with pytest.raises(IllegalLog, match="got str"):
        fitted(Logs(training_step=training_step))


def test_a_tensor_changed_in_place_afterwards_keeps_its_logged_value() -> None:
    running = torch.zeros(())

    def training_step(module: Logs, value: Tensor, index: int) -> None:
        running.fill_(value)
        module.log("a", running, **BOTH)
        running.fill_(-1)

    assert plain(fitted(Logs(training_step=training_step)).callback_metrics)["a_step"] == 6.0


@pytest.mark.parametrize("keeps", [False, True])
def test_enable_graph_keeps_the_step_s_graph(keeps: bool) -> None:
    found = []

    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", module.layer.weight.sum(), enable_graph=keeps, **BOTH)
        found.append(module.trainer.callback_metrics["a_step"].requires_grad)

    trainer = fitted(Logs(training_step=training_step))
    assert found == [keeps] * 4
    assert not trainer.callback_metrics["a_epoch"].requires_grad


def test_arguments_of_several_processes_change_nothing_with_one() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", value, sync_dist=True, sync_dist_group=None, rank_zero_only=True, metric_attribute="m", **BOTH)
        module.log_dict({"b": value}, sync_dist=True, sync_dist_group=None, rank_zero_only=True, **BOTH)

    metrics = plain(fitted(Logs(training_step=training_step)).callback_metrics)
    assert metrics == {f"{name}{kind}": 6.0 if kind == "_step" else 3.0 for name in "ab" for kind in ("", "_step", "_epoch")}


def test_log_dict_joins_nested_names() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log_dict({"a": value, "group": {"b": value, "deeper": {"c": 1}}}, **EPOCH)

    assert plain(fitted(Logs(training_step=training_step)).callback_metrics) == {"a": 3.0, "group/b": 3.0, "group/deeper/c": 1.0}


@pytest.mark.parametrize(
    ("does", "complaint"),
    [
        (lambda module: module.log_dict([1.0]), "log_dict needs a mapping of names to values, and got list"),
        (lambda module: module.log_dict({1: 1.0}), "A metric's name must be a string, and 1 is int"),
        (lambda module: module.log(1, 1.0), "a metric's name must be a string, and this is int"),
        (lambda module: module.log("", 1.0), "a metric needs a name"),
        (lambda module: module.log_dict({"": 1.0}), "a metric needs a name"),
        (lambda module: module.log("a/dataloader_idx_0", 1.0), "the part '/dataloader_idx_' is added by the trainer"),
        (lambda module: module.log("a", 1.0, on_step=False, on_epoch=False), "would log nothing"),
        (lambda module: module.log("a", 1.0, reduce_fx="median"), "reduce_fx must be one of mean, sum, min, max, last"),
        (lambda module: module.log("a", 1.0, reduce_fx=3), "reduce_fx must be one of"),
        (lambda module: module.log("a", 1.0, batch_size=-1, **BOTH), "batch_size must be the number of samples in the batch"),
        (lambda module: module.log("a", 1.0, batch_size=2.5, **BOTH), "batch_size=2.5"),
        (lambda module: module.log("a", 1.0, batch_size=True, **BOTH), "batch_size=True"),
    ],
)
def test_arguments_that_cannot_work(does: Callable[[Logs], None], complaint: str) -> None:
    with pytest.raises(IllegalLog, match=re.escape(complaint)):
        fitted(Logs(training_step=lambda module, value, index: does(module)))


def test_other_arguments_than_before_are_refused() -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value, prog_bar=index > 1))
    with pytest.raises(IllegalLog, match=r"self.log\('a', ...\) was called in training_step with other arguments than before"):
        fitted(module)


# -- reductions


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("mean", 3.0),
        ("avg", 3.0),
        ("MEAN", 3.0),
        (torch.mean, 3.0),
        ("sum", 13.5),
        (torch.sum, 13.5),
        (sum, 13.5),
        ("min", 0.5),
        (torch.min, 0.5),
        (min, 0.5),
        (torch.amin, 0.5),
        ("max", 6.0),
        (torch.max, 6.0),
        (max, 6.0),
        ("last", 6.0),
        (torch.median, 2.5),
        (lambda values: values.max() - values.min(), 5.5),
        (lambda values: float(len(values)), 4.0),
    ],
)
def test_reductions(reduce: Any, expected: float) -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value, reduce_fx=reduce, **EPOCH))
    assert plain(fitted(module).callback_metrics) == {"a": expected}


def test_a_function_written_in_the_call_is_the_same_each_time() -> None:
    def training_step(module: Logs, value: Tensor, index: int) -> None:
        module.log("a", value, reduce_fx=lambda values: values.prod(), **EPOCH)

    assert plain(fitted(Logs(training_step=training_step)).callback_metrics) == {"a": 0.5 * 2.5 * 4.5 * 6.0}


def test_a_function_must_return_one_value() -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value, reduce_fx=lambda v: v * 2, **EPOCH))
    with pytest.raises(IllegalLog, match=r"reduce_fx of 'a' turned 4 values into Tensor of shape \(4,\)"):
        fitted(module)


# -- the number of samples in a batch


class Pair(NamedTuple):
    x: Tensor
    label: str


@dataclass
class Record:
    x: Tensor
    y: Tensor


def mean_over(*batches: Any, **asked: Any) -> float:
    """The epoch's mean of 0, 1, 2 ..., one for each batch."""

    class Module(Logs):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("a", float(batch_idx), **EPOCH, **asked)
            return self.layer.weight.sum()

    module = Module()
    return fitted(module, DataLoader(Stream(batches), batch_size=None)).callback_metrics["a"].item()


@pytest.mark.parametrize(
    "batch_of",
    [
        lambda n: torch.zeros(n),
        lambda n: torch.zeros(n, 3),
        lambda n: (torch.zeros(n, 3), torch.zeros(n)),
        lambda n: [torch.zeros(n, 3), torch.zeros(n)],
        lambda n: {"x": torch.zeros(n, 3), "y": torch.zeros(n)},
        lambda n: {"x": [torch.zeros(n), {"y": torch.zeros(n)}], "scale": torch.tensor(3.0)},
        lambda n: (torch.zeros(n), torch.tensor(3.0)),
        lambda n: (torch.zeros(n), ["word"] * 7),
        lambda n: Pair(torch.zeros(n), "word"),
        lambda n: Record(torch.zeros(n), torch.zeros(n)),
        lambda n: np.zeros((n, 2)),
        lambda n: ["word"] * n,
    ],
)
def test_the_batch_tells_its_size(batch_of: Callable[[int], Any]) -> None:
    assert mean_over(batch_of(3), batch_of(1)) == 0.25


def test_a_batch_of_single_numbers_is_one_sample() -> None:
    assert mean_over(torch.tensor(1.0), torch.tensor(2.0)) == 0.5


def test_a_given_size_is_taken() -> None:
    class Module(Logs):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            size: Any = [3, np.int64(1), torch.tensor(4)][batch_idx]
            self.log("a", float(batch_idx), batch_size=size, **EPOCH)
            return self.layer.weight.sum()

    assert fitted(Module(), numbers(6, 2)).callback_metrics["a"].item() == (1 * 1 + 2 * 4) / 8


@pytest.mark.parametrize(
    ("batch", "what"),
    [
        ({"x": torch.zeros(3), "y": torch.zeros(2)}, "holds tensors with first dimensions [2, 3]"),
        ({"text": ["a", "b"], "number": 1.0}, "holds no tensor"),
        (object(), "holds no tensor"),
    ],
)
def test_an_ambiguous_size_is_never_guessed(batch: Any, what: str) -> None:
    complaint = (
        f"needs the batch's size for an exact epoch mean, and the batch {what}. Pass it: self.log('a', ..., batch_size=...)"
    )
    with pytest.raises(AmbiguousBatchSize, match=re.escape(complaint)):
        mean_over(batch)


def test_only_a_mean_needs_the_size() -> None:
    assert mean_over(object(), object(), reduce_fx="sum") == 1.0
    assert mean_over(object(), object(), batch_size=1) == 0.5


@pytest.mark.parametrize("drop_last", [False, True])
def test_where_the_batch_is_ambiguous_the_loader_counts(drop_last: bool) -> None:
    def collate(samples: list[Any]) -> dict[str, Tensor]:
        return {"nodes": torch.zeros(7), "edges": torch.zeros(9), "x": torch.zeros(1)}

    class Module(Logs):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("a", float(batch_idx), **EPOCH)
            return self.layer(batch["x"]).sum()

    loader = DataLoader(range(7), batch_size=2, collate_fn=collate, drop_last=drop_last)  # type: ignore[arg-type]  # a range will do
    expected = 1.0 if drop_last else (0 * 2 + 1 * 2 + 2 * 2 + 3) / 7
    assert fitted(Module(), loader).callback_metrics["a"].item() == expected


# -- several loaders


def test_names_of_several_loaders(tmp_path: Path) -> None:
    def validation_step(module: Logs, value: Tensor, index: int, loader: int) -> None:
        module.log("v", value, **BOTH)
        module.log(f"own_{loader}", value, add_dataloader_idx=False)

    module = Logs(validation_step=validation_step, on_validation_epoch_end=lambda module: module.log("all", 4.0))
    trainer = fitted(module, val=[numbers(3, 2), numbers(2, 2, 100)], logger=csv_logger(tmp_path), log_every_n_steps=1)
    expected = [
        {"v_epoch/dataloader_idx_0": 1.0, "own_0": 1.0, "all": 4.0},
        {"v_epoch/dataloader_idx_1": 100.5, "own_1": 100.5, "all": 4.0},
    ]
    assert trainer.callback_metrics["v/dataloader_idx_1"] == 100.5
    assert trainer.validate(module, [numbers(3, 2), numbers(2, 2, 100)], verbose=False) == expected
    rows = rows_of(tmp_path)
    assert [(row["step"], sorted(row)) for row in rows[:3]] == [
        (0.0, ["step", "v_step/dataloader_idx_0"]),
        (1.0, ["step", "v_step/dataloader_idx_0"]),
        (0.0, ["step", "v_step/dataloader_idx_1"]),
    ]
    assert {**expected[0], **expected[1], "epoch": 0.0, "step": 3.0} == rows[3]


def test_one_name_for_two_loaders_is_refused() -> None:
    module = Logs(validation_step=lambda module, value, index, loader: module.log("v", value, add_dataloader_idx=False))
    with pytest.raises(IllegalLog, match="add_dataloader_idx=False\\) was called for two loaders: one would hide the other"):
        fitted(module, val=[numbers(2, 2), numbers(2, 2)])


# -- torchmetrics


class Counts(Logs):
    """Keeps torchmetrics objects for training, validation and both."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.train_mean = torchmetrics.MeanMetric()
        self.val_mean = torchmetrics.MeanMetric()
        self.both = torchmetrics.MeanMetric()
        self.group = torchmetrics.MetricCollection(
            {"precision": torchmetrics.Precision("binary"), "recall": torchmetrics.Recall("binary")}, prefix="c_"
        )


def test_a_metric_object_and_its_names() -> None:
    def training_step(module: Counts, value: Tensor, index: int) -> None:
        module.train_mean(value)
        module.log("a", module.train_mean, **BOTH)

    def validation_step(module: Counts, value: Tensor, index: int, loader: int) -> None:
        module.val_mean.update(value)
        module.log("v", module.val_mean)

    module = Counts(training_step=training_step, validation_step=validation_step)
    trainer = fitted(module, val=numbers(4, 2), max_epochs=2)
    mean = (0.5 + 2.5 + 4.5 + 6.0) / 4  # the object weighs batches as it likes
    assert module.at("training_step") == {"a": 6.0, "a_step": 6.0, "a_epoch": mean, "v": 1.5}
    assert plain(trainer.callback_metrics) == {"a": mean, "a_step": 6.0, "a_epoch": mean, "v": 1.5}
    assert trainer.validate(module, numbers(2, 2), verbose=False) == [{"v": 0.5}]
    assert module.train_mean._update_count == module.val_mean._update_count == 0, "not reset at the end"


def test_a_metric_is_whole_until_the_epoch_has_been_read() -> None:
    computed: list[float] = []

    def training_step(module: Counts, value: Tensor, index: int) -> None:
        module.train_mean.update(value)
        module.log("a", module.train_mean, **EPOCH)

    module = Counts(
        training_step=training_step,
        on_validation_epoch_end=lambda module: computed.append(float(module.train_mean.compute())),
        on_train_epoch_end=lambda module: computed.append(float(module.train_mean.compute())),
    )
    fitted(module, numbers(4, 2), numbers(4, 2), max_epochs=2, num_sanity_val_steps=0)
    assert computed == [1.5] * 4


def test_a_metric_that_training_and_validation_share_mixes_nothing() -> None:
    def training_step(module: Counts, value: Tensor, index: int) -> None:
        module.both.update(value)
        module.log("a", module.both, **EPOCH)

    def validation_step(module: Counts, value: Tensor, index: int, loader: int) -> None:
        module.both.update(value)
        module.log("v", module.both)

    for sanity in (0, 2):
        module = Counts(training_step=training_step, validation_step=validation_step)
        trainer = fitted(
            module, numbers(8, 2), numbers(4, 2, 100), val_check_interval=2, max_epochs=2, num_sanity_val_steps=sanity
        )
        assert plain(trainer.callback_metrics) == {"a": 3.5, "v": 101.5}


@pytest.mark.parametrize("shared", [False, True])
def test_a_metric_of_several_loaders_starts_anew_for_each(shared: bool) -> None:
    found: list[float] = []

    def validation_step(module: Counts, value: Tensor, index: int, loader: int) -> None:
        metric = module.both if shared else (module.train_mean, module.val_mean)[loader]
        metric.update(value)
        module.log("v", metric)

    def end(module: Counts) -> None:
        found.append(float(module.train_mean.compute()) if not shared else 1.5)

    module = Counts(validation_step=validation_step, on_validation_epoch_end=end)
    for _ in range(2):
        result = kit.trainer().validate(module, [numbers(4, 2), numbers(4, 2, 100)], verbose=False)
        assert result == [{"v/dataloader_idx_0": 1.5}, {"v/dataloader_idx_1": 101.5}]
    assert found == [1.5, 1.5]


@pytest.mark.parametrize("forward", [False, True])
def test_a_collection_of_metrics(forward: bool) -> None:
    target = torch.tensor([1, 1, 1, 0])
    said = [torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 0.0])]

    def training_step(module: Counts, value: Tensor, index: int) -> None:
        (module.group if forward else module.group.update)(said[index], target)
        module.log_dict(module.group, **(BOTH if forward else EPOCH))

    trainer = fitted(Counts(training_step=training_step), numbers(3, 1), max_epochs=2)
    expected = {"c_precision": 5 / 6, "c_recall": 5 / 9}
    found = plain(trainer.callback_metrics)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert ("c_precision_step" in found) is forward
    if forward:
        assert found["c_recall_step"] == pytest.approx(1 / 3)


def test_another_object_under_the_same_name_is_refused() -> None:
    def training_step(module: Counts, value: Tensor, index: int) -> None:
        metric = torchmetrics.MeanMetric()
        metric(value)
        module.log("a", metric, **EPOCH)

    with pytest.raises(IllegalLog, match="was given another metric object than before"):
        fitted(Counts(training_step=training_step))


def test_a_metric_that_computes_several_values_is_refused() -> None:
    class Module(Counts):
        def __init__(self) -> None:
            super().__init__()
            self.classes = torchmetrics.Accuracy("multiclass", num_classes=3, average=None)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.classes.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
            self.log("a", self.classes, **EPOCH)
            return self.layer(batch[0]).mean()

    with pytest.raises(IllegalLog, match=r"logged as 'a' computes a tensor of shape \(3,\).*call compute\(\) yourself"):
        fitted(Module())


# -- where it is legal


class LogsWhereTold(Callback):
    """Logs from one hook, by way of the module."""

    def __init__(self, hook: str) -> None:
        self.done = 0

        def log(trainer: leyden.Trainer, module: leyden.LightningModule, *arguments: Any, **keywords: Any) -> None:
            module.log("a", 1.0)
            self.done += 1

        setattr(self, hook, log)


def run_everything(module: Logs, *callbacks: Callback, folder: Path | None = None) -> dict[str, Tensor]:
    """Fit, validate, test and predict; returns all metrics that callbacks could have seen."""
    trainer = kit.trainer(callbacks=list(callbacks), num_sanity_val_steps=1)
    seen: dict[str, Tensor] = {}
    trainer.fit(module, numbers(4, 2), numbers(4, 2))
    seen.update(trainer.callback_metrics)
    for verb in (trainer.validate, trainer.test):
        verb(module, numbers(2, 2), verbose=False)
        seen.update(trainer.callback_metrics)
    module.forward = lambda batch: batch[0]  # type: ignore[method-assign]  # something to predict
    trainer.predict(module, numbers(2, 2))
    if folder is not None:
        trainer.save_checkpoint(folder / "a.ckpt")
    return seen


ALL_HOOKS = [name for name in HOOK_NAMES if name not in ("on_exception", "on_load_checkpoint", "state_dict", "load_state_dict")]


@pytest.mark.parametrize("hook", [name for name in ALL_HOOKS if name in WHERE_LEGAL])
def test_a_callback_logs_where_it_is_legal(hook: str) -> None:
    callback = LogsWhereTold(hook)
    assert run_everything(Logs(), callback)["a"] == 1.0
    assert callback.done > 0


@pytest.mark.parametrize("hook", [name for name in ALL_HOOKS if name not in WHERE_LEGAL])
def test_elsewhere_the_error_says_where_it_is_legal(hook: str, tmp_path: Path) -> None:
    with pytest.raises(IllegalLog) as raised:
        run_everything(Logs(), LogsWhereTold(hook), folder=tmp_path)
    message = str(raised.value)
    place = "outside of the trainer's hooks" if hook == "teardown" else f"in {hook}"
    assert message.startswith(f"self.log('a', ...) was called {place}, where nothing can be logged. It is legal in: ")
    assert all(name in message for name in WHERE_LEGAL)


@pytest.mark.parametrize("hook", ["prepare_data", "setup", "configure_optimizers", "configure_model", "train_dataloader"])
def test_no_logging_from_the_module_s_preparations(hook: str) -> None:
    module = Logs()
    kept = getattr(module, hook)

    def log(*arguments: Any, **keywords: Any) -> Any:
        module.log("a", 1.0)
        return kept(*arguments, **keywords)

    setattr(module, hook, log)
    with pytest.raises(IllegalLog, match=f"was called (in {hook}|outside of the trainer's hooks), where nothing can be logged"):
        kit.trainer().fit(module, None if hook == "train_dataloader" else numbers(2, 2))


@pytest.mark.parametrize(
    ("hook", "asked"),
    [
        *((hook, {"on_step": True}) for hook, (allowed, _) in WHERE_LEGAL.items() if allowed == ("epoch",)),
        *((hook, {"on_epoch": False}) for hook, (allowed, _) in WHERE_LEGAL.items() if allowed == ("epoch",)),
    ],
)
def test_a_hook_of_an_epoch_has_no_step(hook: str, asked: dict[str, bool]) -> None:
    class Asks(Callback):
        pass

    callback = Asks()
    setattr(callback, hook, lambda trainer, module: module.log("a", 1.0, **asked))
    with pytest.raises(IllegalLog, match=f"in {hook}: there is no step here"):
        run_everything(Logs(), callback)


@pytest.mark.parametrize("hook", [hook for hook, (_, default) in WHERE_LEGAL.items() if default == "step" and hook in ALL_HOOKS])
def test_a_training_step_s_hooks_log_the_step_by_default(hook: str) -> None:
    trainer = kit.trainer(callbacks=[LogsWhereTold(hook)], max_epochs=1)
    module = Logs()
    trainer.fit(module, numbers(4, 2))
    assert module.at("on_train_batch_end" if hook != "on_train_batch_end" else "on_train_epoch_end") == {"a": 1.0}


def test_methods_that_are_overridden_may_log() -> None:
    class Module(Logs):
        def backward(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
            self.log("in_backward", 1)
            super().backward(loss, *arguments, **keywords)

        def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
            super().optimizer_step(*arguments, **keywords)
            self.log("in_optimizer_step", 2)

        def optimizer_zero_grad(self, *arguments: Any) -> None:
            self.log("in_zero_grad", 3)
            super().optimizer_zero_grad(*arguments)

        def configure_gradient_clipping(self, *arguments: Any, **keywords: Any) -> None:
            self.log("in_clipping", 4)

    assert plain(fitted(Module()).callback_metrics) == {
        "in_backward": 1,
        "in_optimizer_step": 2,
        "in_zero_grad": 3,
        "in_clipping": 4,
    }


def test_a_module_inside_the_module_logs_too() -> None:
    class Inner(leyden.LightningModule):
        def forward(self, x: Tensor) -> Tensor:
            self.log("inner", x.mean())
            return x

    module = Logs(training_step=lambda module, value, index: module.inner(value))
    module.inner = Inner()
    assert plain(fitted(module).callback_metrics) == {"inner": 6.0}


def test_manual_optimization_logs_as_any() -> None:
    class Module(Logs):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = self.layer(batch[0]).mean()
            self.manual_backward(loss)
            optimizer.step()
            self.log("a", batch[0].mean(), **BOTH)

    assert plain(fitted(Module()).callback_metrics) == {"a": 3.0, "a_step": 6.0, "a_epoch": 3.0}


# -- outside of a run


def test_without_a_trainer_the_value_is_dropped_and_said_once() -> None:
    module = Logs()
    with pytest.warns(LeydenWarning, match=r"self.log\('a', ...\) was called on a Logs that no trainer runs"):
        module.log("a", 1.0)
    module.log("b", 1.0)
    module.log_dict({"c": 1.0})


def test_after_a_run_there_is_nowhere_to_log() -> None:
    module = Logs()
    fitted(module)
    with pytest.raises(IllegalLog, match="was called outside of the trainer's hooks, where nothing can be logged"):
        module.log("a", 1.0)


def test_barebones_logs_nothing_and_says_so_once() -> None:
    module = Logs(training_step=lambda module, value, index: module.log("a", value))
    trainer = leyden.Trainer(barebones=True, max_epochs=1, accelerator="cpu")
    with pytest.warns(LeydenWarning, match=r"self.log\('a', ...\) logs nothing under Trainer\(barebones=True\)") as said:
        trainer.fit(module, numbers(7, 2))
    assert sum("barebones" in str(warning.message) for warning in said) == 1
    assert trainer.callback_metrics == {}
    trainer.fit(leyden.testing.BoringModel(), leyden.testing.random_batches(2))  # its step returns a dict with the loss
    assert trainer.callback_metrics == {}


# -- who finds the metrics

STEPS = ("training_step", "validation_step")
MONITORED = [
    *((place, name) for place in STEPS for name in ("m", "m_epoch")),
    *((place, "m") for place in ("on_train_epoch_start", "on_train_epoch_end", "on_validation_epoch_end")),
]


@pytest.mark.filterwarnings("ignore:Some values cannot be written:leyden.errors.LeydenWarning")
@pytest.mark.parametrize(("place", "name"), MONITORED)
def test_early_stopping_checkpoints_and_plateaus_find_it(place: str, name: str, tmp_path: Path) -> None:
    def log(module: Logs, *arguments: Any) -> None:
        module.log("m", 1.0 + module.current_epoch, **(BOTH if place in STEPS else {}))

    class Module(Logs):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 1.0)
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": name}}

    module = Module(**{place: log})
    stopping = EarlyStopping(name, patience=2)
    saving = ModelCheckpoint(tmp_path, monitor=name, save_top_k=1)
    trainer = kit.trainer(max_epochs=9, callbacks=[stopping, saving], enable_checkpointing=True)
    trainer.fit(module, numbers(4, 2), numbers(4, 2))
    assert trainer.current_epoch == 3
    assert saving.best_model_score == 1.0
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.25


def test_a_monitor_that_nobody_logs_is_named() -> None:
    module = Logs(training_step=lambda module, value, index: module.log("trian_loss", value))
    with pytest.raises(MissingMonitor, match=r"train_loss.*trian_loss"):
        fitted(module, callbacks=[EarlyStopping("train_loss")])
