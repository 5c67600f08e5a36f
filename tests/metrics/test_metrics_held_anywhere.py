"""torchmetrics objects in plain lists, dicts and objects are kept over a cut, also those that training and validation share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden
from leyden.metrics.metric_objects import put_state, state_of


class Cut(Exception):
    """The run ends here, as by a kill."""


HOLDERS: dict[str, tuple[Callable[[], Any], Callable[[Any], tuple[Any, Any]]]] = {
    "attribute": (torchmetrics.MeanMetric, lambda held: (held, held)),
    "list": (lambda: [torchmetrics.MeanMetric(), torchmetrics.MeanMetric()], lambda held: (held[0], held[1])),
    "shared in a list": (lambda: [torchmetrics.MeanMetric()], lambda held: (held[0], held[0])),
    "dict": (lambda: {"a": torchmetrics.MeanMetric(), "b": torchmetrics.MaxMetric()}, lambda held: (held["a"], held["b"])),
    "lists on the CPU": (lambda: torchmetrics.CatMetric(compute_on_cpu=True), lambda held: (held, held)),
    "dict of lists": (lambda: {"a": [torchmetrics.CatMetric()]}, lambda held: (held["a"][0], held["a"][0])),
    "object": (lambda: SimpleNamespace(own=torchmetrics.SumMetric()), lambda held: (held.own, held.own)),
    "wrapped": (lambda: [torchmetrics.MinMaxMetric(torchmetrics.MeanMetric())], lambda held: (held[0], held[0])),
    "collection": (
        lambda: {"all": torchmetrics.MetricCollection({"mean": torchmetrics.MeanMetric(), "max": torchmetrics.MaxMetric()})},
        lambda held: (held["all"]["mean"], held["all"]["max"]),
    ),
}


class Module(leyden.LightningModule):
    def __init__(self, holder: str, logs: bool, cut: int | None, path: Path) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        make, self.find = HOLDERS[holder]
        self.held = make()
        self.logs, self.cut, self.path = logs, cut, path
        self.told: list[Any] = []

    def _use(self, metric: Any, name: str, batch: Tensor) -> None:
        metric.update(batch.mean())
        if self.logs and not isinstance(metric, torchmetrics.CatMetric | torchmetrics.MinMaxMetric):
            self.log(name, metric, on_step=False, on_epoch=True)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._use(self.find(self.held)[0], "train", batch)
        return self.weight.sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._use(self.find(self.held)[1], "val", -batch)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.cut is not None and self.cut < 0 and batch_idx == 1:
            self._save()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.cut == self.global_step:
            self._save()

    def _save(self) -> None:
        self.trainer.save_checkpoint(self.path)
        raise Cut

    def on_train_epoch_end(self) -> None:
        if not self.logs:
            for metric in self.find(self.held):
                self.told.append(str(metric.compute()))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(holder: str, logs: bool, path: Path, cut: int | None = None, resume: bool = False) -> tuple[Any, Any]:
    module = Module(holder, logs, cut, path)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet.update(logger=False, accelerator="cpu", num_sanity_val_steps=0, default_root_dir=path.parent)
    trainer = leyden.Trainer(max_epochs=2, val_check_interval=2, **quiet)
    data = list(torch.arange(12.0))
    with suppress(Cut):
        trainer.fit(module, DataLoader(data, 3), DataLoader(data[:8], 3), ckpt_path=path if resume else None)  # type: ignore[arg-type]
    return module.told, trainer.leyden_fit.history


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("logs", [False, True])
def test_a_metric_is_kept_wherever_it_is_held(holder: str, logs: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    whole = fit(holder, logs, path)
    for cut in (1, 2, 3, 5, -1):
        fit(holder, logs, path, cut=cut)
        told, history = fit(holder, logs, path, resume=True)
        assert (whole[0][len(whole[0]) - len(told) :], whole[1]) == (told, history), cut


@pytest.mark.parametrize("compute_on_cpu", [True, False])
def test_lists_come_back_where_the_metric_keeps_them(compute_on_cpu: bool) -> None:
    metric = torchmetrics.CatMetric(compute_on_cpu=compute_on_cpu)
    metric.update(torch.ones(2))
    elsewhere = torchmetrics.CatMetric(compute_on_cpu=compute_on_cpu).to("meta")
    put_state(elsewhere, state_of(metric))
    assert [each.device.type for each in elsewhere.value] == ["cpu" if compute_on_cpu else "meta"]
