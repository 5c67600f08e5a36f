"""Tensors that differ between processes in an exchange of the user's: a named error, before gloo ends one without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from real_processes import together
from torch import Tensor
from torch.utils.data import DataLoader

import leyden
from leyden.distributed import group
from leyden.errors import LeydenError, MetricsDiffer, TensorsDiffer
from leyden.loggers import CSVLogger
from leyden.testing import BoringModel

KINDS: dict[str, tuple[Callable[[leyden.LightningModule, int], Any], str]] = {
    "shape": (lambda m, r: m.all_gather(torch.zeros(3, 2 + r)), r"float32\[3, 2\] on process 0, float32\[3, 3\] on process 1\)"),
    "first": (lambda m, r: m.all_gather(torch.zeros(2 + r, 3)), r"Evaluation reads each sample once.*DistributedSampler"),
    "dimensions": (lambda m, r: m.all_gather(torch.zeros((2,) * (r + 1))), r"float32\[2\] on process 0, float32\[2, 2\]"),
    "type": (lambda m, r: m.all_gather(torch.zeros(2).to([torch.float64, torch.int64][r])), r"float64\[2\] .*, int64\[2\]"),
    "names": (lambda m, r: m.all_gather({"a": 1.0, "b": 2.0} if r else {"a": 1.0}), r"\['b'\]: nothing on process 0"),
    "order": (lambda m, r: m.all_gather(dict([("a", 1), ("b", 2)][:: 1 - 2 * r])), "in another order"),
    "gradients": (lambda m, r: m.all_gather(torch.zeros(2 + r, requires_grad=True), sync_grads=True), r"float32\[3\]"),
    "strategy": (lambda m, r: m.trainer.strategy.all_gather(torch.zeros(2 + r)), "all_gather was called with other tensors"),
    "reduce": (lambda m, r: m.trainer.strategy.reduce(torch.zeros(2 + r)), r"reduce was called with other .*float32\[2\]"),
    "calls": (
        lambda m, r: m.trainer.strategy.reduce(torch.zeros(2)) if r else m.all_gather(torch.zeros(2)),
        r"different exchanges \(process 0: all_gather, process 1: reduce\)",
    ),
}


class Asks(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, str] = {}
        self.numbers: Any = None

    def on_train_start(self) -> None:
        for name, (call, _) in KINDS.items():
            with pytest.raises(TensorsDiffer) as caught:
                call(self, self.global_rank)
            self.said[name] = str(caught.value)
        rank = self.global_rank
        self.numbers = self.all_gather({"rate": 1.5 + rank, "count": [rank], "yes": rank == 0, "text": "as it is"})


def asked() -> tuple[dict[str, str], Any]:
    module = Asks()
    kit.trainer(devices=2).fit(module, DataLoader(torch.randn(4, 32), 1))
    return module.said, module.numbers


def test_tensors_that_differ_are_an_error_on_all_processes() -> None:
    (said, numbers), other = together(2, asked)
    assert said == other[0]
    for name, (_, expected) in KINDS.items():
        assert re.search(expected, said[name]), (name, said[name])
    assert numbers["rate"].tolist() == [1.5, 2.5]
    assert numbers["count"][0].tolist() == [0, 1]
    assert numbers["yes"].tolist() == [1, 0]
    assert numbers["text"] == "as it is"


def test_alone_numbers_become_tensors_too() -> None:
    module = BoringModel()
    module.trainer = kit.trainer()
    found = module.all_gather({"rate": 1.5, "count": 2})
    assert {name: (value.dtype, value.item()) for name, value in found.items()} == {
        "rate": (torch.float32, 1.5),
        "count": (torch.int32, 2),
    }


class Uneven(BoringModel):
    """Five samples over two processes: one has a batch more."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]  # nothing is returned
        self.all_gather(batch)


class OneLogs(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_rank == 0:
            self.log("mine", 1.0, sync_dist=True)
        return self.layer(batch).sum()  # type: ignore[no-any-return]  # a module's call is Any


def fails(folder: str, name: str) -> str:
    run = kit.trainer(devices=2, log_every_n_steps=1, logger=CSVLogger(folder), num_sanity_val_steps=0, crash_capsule=False)
    loaders = DataLoader(torch.randn(4, 32), 1), DataLoader(torch.randn(5, 32), 2)
    with pytest.raises(LeydenError) as caught:
        run.fit({"Uneven": Uneven, "OneLogs": OneLogs}[name](), *loaders)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_a_process_with_more_batches_that_gathers_in_each_is_told_where_the_other_is(tmp_path: Path) -> None:
    first, second = together(2, fails, str(tmp_path), "Uneven")
    there = "(process 0: all_gather, process 1: after the batches of an epoch of val)"
    for said in (first, second):
        assert there in said
        assert "Evaluation reads each sample once" in said


def test_a_value_that_one_process_shares_is_an_error_at_the_first_row(tmp_path: Path) -> None:
    for said in together(2, fails, str(tmp_path), "OneLogs"):
        assert said.startswith(MetricsDiffer.__name__)
        assert "(at a row of train): 'mine' (in training_step) was logged by process 0, and not by 1" in said


def without_cpu() -> tuple[bool, bool]:
    """As with a group that Ray Train made for NCCL alone."""
    dist.init_process_group("gloo")
    group.serves = lambda backend, kind: False
    run = kit.trainer(devices=2)
    module = BoringModel()
    run.fit(module, DataLoader(torch.randn(8, 32), 1), DataLoader(torch.randn(5, 32), 1))
    beside: Any = run.strategy.processes
    return beside._of_cpu is not None, run.global_step == 4


def test_a_group_that_serves_gpus_alone_gets_one_for_the_cpu_beside_it() -> None:
    assert together(2, without_cpu) == [(True, True)] * 2
