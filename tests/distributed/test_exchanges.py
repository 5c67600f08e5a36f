"""How often processes exchange something, by PyTorch's own count: a step as its engine does, else a fixed number."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
import torch.distributed as dist
from real_processes import together
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden
from leyden.loggers import CSVLogger
from leyden.plugins import ShardedCheckpointIO


class Net(leyden.LightningModule):
    """Logs ``names`` values in every step, and as many in validation."""

    def __init__(self, names: int = 0) -> None:
        super().__init__()
        self.net, self.names = nn.Linear(4, 1), names
        self.at: dict[str, int] = {}

    def on_train_start(self) -> None:
        self.at["begun"] = count()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.net(batch).pow(2).mean()
        for number in range(self.names):
            self.log(f"loss{number}", loss, on_epoch=True)
            self.log(f"together{number}", loss, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        for number in range(self.names):
            self.log(f"val{number}", self.net(batch).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def count() -> int:
    """The exchanges so far."""
    group: Any = dist.group.WORLD
    number: int = group._get_sequence_number_for_group()
    return number


def counted(folder: str, strategy: str, names: int, batches: int) -> dict[str, int]:
    module, loader = Net(names), DataLoader(torch.randn(4 * batches, 4), 2)
    run = kit.trainer(
        devices=2,
        strategy=strategy,
        log_every_n_steps=0,  # a row in which values of all processes stand is an exchange
        enable_checkpointing=True,
        logger=CSVLogger(folder, version=f"{strategy}-{names}-{batches}"),
        default_root_dir=folder,
    )
    before = count() if dist.is_initialized() else 0
    run.fit(module, loader, DataLoader(torch.randn(6, 4), 2))
    return {"start": module.at["begun"] - before, "whole": count() - before}


def job(folder: str) -> Any:
    sizes = {"one": (1, 3), "fifty": (50, 3), "longer": (1, 7)}
    kinds = ("ddp", "fsdp")
    return {kind: {name: counted(folder, kind, *size) for name, size in sizes.items()} for kind in kinds}


def test_exchanges_are_one_a_step_and_do_not_grow_with_what_is_logged(tmp_path: Path) -> None:
    found = together(2, job, str(tmp_path))
    assert found[0] == found[1]
    for strategy, a_step in (("ddp", 1), ("fsdp", 2)):
        runs = found[0][strategy]
        assert runs["one"] == runs["fifty"], "start-up, logging, validation and checkpoints"
        assert runs["one"]["start"] == runs["longer"]["start"] < 25
        assert runs["longer"]["whole"] - runs["one"]["whole"] == 4 * a_step, "four steps more"


def opened_elsewhere(folder: str, strategy: str, sharded: bool) -> list[str]:
    """The files below ``folder`` that this process opens when it goes on from a checkpoint there."""
    opened: list[str] = []
    listens: list[bool] = []

    def heard(event: str, arguments: Any) -> None:
        if listens and event == "open" and folder in str(arguments[0]):
            opened.append(os.path.basename(arguments[0]))

    sys.addaudithook(heard)
    path, options = os.path.join(folder, "saved.ckpt"), {"devices": 2, "strategy": strategy}
    plugins = ShardedCheckpointIO() if sharded else None
    run = kit.trainer(**options, plugins=plugins)
    run.fit(Net(), DataLoader(torch.randn(8, 4), 2))
    run.save_checkpoint(path)
    again = kit.trainer(**options, plugins=plugins, max_epochs=2)
    listens.append(True)
    again.fit(Net(), DataLoader(torch.randn(8, 4), 2), ckpt_path=path)
    listens.clear()
    assert again.global_step == 4
    return opened


@pytest.mark.parametrize(("strategy", "sharded"), [("ddp", False), ("fsdp", False), ("ddp", True)])
def test_no_process_but_the_first_opens_a_checkpoint_to_go_on(strategy: str, sharded: bool, tmp_path: Path) -> None:
    first, second = together(2, opened_elsewhere, str(tmp_path), strategy, sharded)
    assert ("__1_0.distcp" if sharded else "saved.ckpt") in first
    assert second == []
