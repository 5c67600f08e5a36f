"""A small script that trains in two processes, of which one fails once: for the tests of whole jobs and the soak.

python failing_job.py FOLDER --strategy ddp --fault raises|killed|exits|skipping|terminated|waits --rank 1 --at BATCH --restarts N
python failing_job.py FOLDER --strategy fsdp --fault saving --rank 1 --at CALL    killed at that call of its disk

Under fsdp checkpoints are folders, into which each process writes its shards.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.checkpoint import folders, shards
from leyden.checkpoint.durable import Disk
from leyden.strategies import FSDPStrategy

BATCHES = 24  # of both epochs together, in each process


class Killing(Disk):
    """Ends this process at call ``at`` of all that sharded checkpoints ask of a disk. The first write of a file counts, and is
    done by half."""

    calls, before = 0, ""
    at = -1
    folder = ""

    def __getattribute__(self, name: str) -> Any:
        if name in ("open", "write", "sync_file", "replace", "sync_folder", "link", "make_folders"):
            Killing.calls += name != "write" or Killing.before != "write"
            Killing.before = name
            if Killing.calls == Killing.at + 1 and not Path(Killing.folder, "failed").exists():
                return lambda *given: self.end(name, *given)
        return super().__getattribute__(name)

    def end(self, name: str, *given: Any) -> None:
        where = given[0] if isinstance(given[0], str) else given[0].name
        Path(Killing.folder, "failed").write_text(f"{name} {where}")
        if name == "write":
            file, data = given
            file.write(memoryview(data)[: len(data) // 2])
            file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


class Net(leyden.LightningModule):
    """Draws random numbers, and fails in process ``rank`` (-1: in each) before batch ``at``, counted over all epochs: once."""

    def __init__(self, folder: str, fault: str, rank: int, at: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 1))
        self.folder, self.fault, self.rank, self.at = folder, fault, rank, at

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        number = self.trainer.current_epoch * (BATCHES // 2) + batch_idx
        if self.fault != "saving" and self.at == number and self.rank in (-1, self.trainer.global_rank):
            once = Path(self.folder, "failed")
            if self.rank < 0 or not once.exists():
                once.touch()
                self.fail()
        if self.fault == "skipping" and self.at == number:  # waits until the other one has heard of it, which leaves
            return None
        loss = (self.net(batch[0] + 0.1 * torch.randn(3)) - batch[0].sum(1, keepdim=True)).pow(2).mean()
        self.log("loss", loss, on_epoch=True)
        return loss

    def fail(self) -> None:
        if self.fault == "raises":
            raise LookupError("no such thing")
        if self.fault == "waits":
            until = time.monotonic() + 60
            while not Path(self.folder, "heard").exists() and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(0.2)  # until the signal is there
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault in ("exits", "skipping"):
            os._exit(0)
        if self.fault == "terminated":
            os.kill(os.getpid(), signal.SIGTERM)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.05)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--fault", default="")
    parser.add_argument("--rank", type=int, default=1)
    parser.add_argument("--at", type=int, default=7)
    parser.add_argument("--restarts", type=int, default=0)
    parser.add_argument("--goes-on", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.fault == "saving":
        shards.Disk = folders.Disk = Killing  # type: ignore[misc]  # the disk of sharded checkpoints
        mine = asked.rank in (-1, int(os.environ.get("RANK", "0")))
        Killing.at, Killing.folder, Killing.calls = asked.at if mine else -1, asked.folder, 0
    leyden.seed_everything(5)
    data = torch.arange(3.0 * 2 * BATCHES).view(-1, 3) / (6 * BATCHES)
    module = Net(asked.folder, asked.fault, asked.rank, asked.at)
    trainer = leyden.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=FSDPStrategy(state_dict_type="sharded") if asked.strategy == "fsdp" else asked.strategy,
        max_epochs=2,
        accumulate_grad_batches=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=asked.folder,
        callbacks=ModelCheckpoint(dirpath=os.path.join(asked.folder, "kept"), every_n_train_steps=2, save_last=True),
        max_restarts=asked.restarts,
    )
    loader = DataLoader(TensorDataset(data), 2, shuffle=True)
    trainer.fit(module, loader, ckpt_path="last" if asked.goes_on else None)
    weights = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in module.state_dict().values()]
    if trainer.is_global_zero:
        bits = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights)).hexdigest()
        loss = float(trainer.callback_metrics.get("loss_epoch", float("nan")))  # Ctrl-C may come before an epoch has ended
        Path(asked.folder, "ended.json").write_text(json.dumps([bits, trainer.global_step, loss]))


def go_on(folder: str, *words: str) -> None:
    """The same command again, in one of the processes that a test has started."""
    sys.argv = [__file__, folder, "--goes-on", *words]
    try:
        main()
    except SystemExit as error:
        raise RuntimeError(f"exit {error.code}") from error


if __name__ == "__main__":
    main()
