"""How often processes exchange something, by PyTorch's own count: a step as its engine does, else a fixed number."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
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
from leyden.strategies import SingleDeviceStrategy


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


class Asked:
    """How often this thread asks the stores of process groups for something, which waits for an answer."""

    def __init__(self) -> None:
        self.times, self.thread = 0, threading.get_ident()

    def counted(self, inner: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.times += threading.get_ident() == self.thread
            return inner(*args, **kwargs)

        return call


def asked(folder: str, strategy: str, window: int, skipped: int) -> list[int]:
    """How often the store is asked in each batch, where the second process skips the batch ``skipped``."""

    class MaySkip(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            times.append(store.times)
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx == skipped and self.global_rank == 1 else loss

        def on_train_epoch_end(self) -> None:
            times.append(store.times)

    store, times, kind = Asked(), [], dist.distributed_c10d.Store  # type: ignore[attr-defined, var-annotated]
    names = ("get", "add", "check", "compare_set", "wait")
    before = {name: getattr(kind, name) for name in names}
    for name in names:
        setattr(kind, name, store.counted(before[name]))
    try:
        run = kit.trainer(devices=2, strategy=strategy, default_root_dir=folder, accumulate_grad_batches=window)
        run.fit(MaySkip(), DataLoader(torch.randn(24, 4), 2))
    finally:
        for name in names:
            setattr(kind, name, before[name])
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def all_asked(folder: str) -> dict[str, list[int]]:
    return {
        "ddp": asked(folder, "ddp", 1, skipped=-1),
        "windows": asked(folder, "ddp", 2, skipped=-1),
        "fsdp": asked(folder, "fsdp", 1, skipped=-1),
        "skipped": asked(folder, "ddp", 1, skipped=2),
    }


def test_no_step_asks_the_store_before_a_batch_is_skipped(tmp_path: Path) -> None:
    for rank, found in enumerate(together(2, all_asked, str(tmp_path))):
        skipped = found.pop("skipped")
        assert found == {name: [0] * 6 for name in found}
        assert skipped[:2] == [0, 0]
        assert skipped[2] == (3 if rank else 2), "of the skipped batch it is noted, looked for, and read"
        assert skipped[3:5] == [1, 1], "from then on it is looked for"


def test_who_waits_for_an_exchange_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch, "get_device_module", lambda device: SimpleNamespace(synchronize=waited.append))
    strategy = SingleDeviceStrategy("cpu")
    strategy.leyden_await_exchange()
    assert waited == []
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", torch.device("meta"))
    strategy.leyden_await_exchange()
    assert waited == [torch.device("meta")]


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
