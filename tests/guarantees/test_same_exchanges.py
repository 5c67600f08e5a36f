"""Two processes ask for the same exchanges in the same order, whatever happens on one alone, and for none between flushes."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes_of_threads import ProcessesOfThreads, outcomes_together, run_together
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.callbacks import EarlyStopping, ModelCheckpoint, Timer, TQDMProgressBar
from leyden.errors import MetricsDiffer, NonFiniteLoss, TrainingTerminated
from leyden.loggers import CSVLogger
from leyden.strategies import SingleDeviceStrategy


class Net(leyden.LightningModule):
    """Learns other things on every rank: its values differ, and what is decided by them must not."""

    def __init__(self, rank: int, bad_at: int | None = None, extra: bool = False) -> None:
        super().__init__()
        self.rank, self.bad_at, self.extra = rank, bad_at, extra
        self.layer = nn.Linear(3, 1)

    def loss(self, batch: Any) -> Tensor:
        return self.layer(batch[0]).sub(self.rank + 1).pow(2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("together", loss, sync_dist=True)
        if self.extra:
            self.log("mine", loss, on_epoch=True)
        return loss * float("nan") if self.bad_at == batch_idx else loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch) + self.rank)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def batches(count: int = 12) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(2 * count, 3, generator=generator)), batch_size=2)


class Doing(leyden.Callback):
    """Does something at the end of one batch, or of each."""

    def __init__(self, deed: Callable[[Any], Any], at: int | None = None) -> None:
        self.deed, self.at = deed, at

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.at is None or trainer.leyden_fit.progress.batches == self.at:
            self.deed(trainer)


def trainer(processes: ProcessesOfThreads, folder: Path, **options: Any) -> leyden.Trainer:
    return leyden.Trainer(
        **{
            "max_epochs": 2,
            "log_every_n_steps": 4,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "logger": False,
            "enable_checkpointing": False,
            **options,
        },
        default_root_dir=folder,
        strategy=SingleDeviceStrategy("cpu", processes=processes),
    )


def checkpoint(folder: Path, **options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "checkpoints", monitor="val_loss", save_top_k=2, save_last=True, **options)


class Slow:
    """A clock that is behind, and slower."""

    def __init__(self, rank: int) -> None:
        self.now, self.pace = 1000.0 * rank, 1.0 + rank

    def __call__(self) -> float:
        self.now += self.pace
        return self.now


CASES: dict[str, Callable[[int, Path], dict[str, Any]]] = {
    "plain": lambda rank, folder: {},
    "a bar and loggers on the first alone": lambda rank, folder: (
        {"enable_progress_bar": True, "callbacks": [TQDMProgressBar()], "logger": CSVLogger(folder)} if rank == 0 else {}
    ),
    "reads metrics on one alone": lambda rank, folder: {
        "callbacks": [Doing(lambda run: (dict(run.callback_metrics), run.progress_bar_metrics))] if rank else []
    },
    "a monitor that improves": lambda rank, folder: {"callbacks": [checkpoint(folder)], "enable_checkpointing": True},
    "early stopping": lambda rank, folder: {"callbacks": [EarlyStopping("val_loss", patience=1, min_delta=1e6)]},
    "a slower clock": lambda rank, folder: {
        "callbacks": [checkpoint(folder, train_time_interval={"seconds": 5}, clock=Slow(rank))],
        "enable_checkpointing": True,
        "val_check_interval": {"milliseconds": 1},
    },
    "time is over on one alone": lambda rank, folder: {"callbacks": [Timer({"seconds": 10}, clock=Slow(rank))] if rank else []},
    "a stop on one alone": lambda rank, folder: {"callbacks": [Doing(lambda run: run.stop(), 3)] if rank else []},
    "an epoch skipped on one alone": lambda rank, folder: {"callbacks": [Skipping(3)] if rank else []},
    "windows": lambda rank, folder: {"accumulate_grad_batches": 5, "gradient_clip_val": 1.0},
}


class Skipping(leyden.Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> Any:
        return -1 if trainer.leyden_fit.progress.batches >= self.at and trainer.current_epoch == 0 else None


@pytest.mark.parametrize("case", CASES)
def test_the_exchanges_are_the_same(case: str, tmp_path: Path) -> None:
    def body(processes: ProcessesOfThreads) -> tuple[Any, ...]:
        run = trainer(processes, tmp_path, **CASES[case](processes.rank, tmp_path))
        result = run.fit(Net(processes.rank), batches(), batches(4))
        history = [{name: row[name] for name in ("epoch", "step", "loss_epoch", "val_loss")} for row in result.history]
        return processes.exchanges, result.epochs, result.steps, history, dict(run.callback_metrics)["val_loss"]

    first, second = run_together(2, body)
    assert first[0] == second[0]
    assert first[1:] == second[1:], "both ended at the same batch, with the same epoch values"
    assert len(first[0]) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_on_one_alone(number: int, rank: int, tmp_path: Path) -> None:
    seen: list[ProcessesOfThreads] = []
    ended: dict[int, Any] = {}

    def body(processes: ProcessesOfThreads) -> None:
        seen.append(processes)
        callbacks: list[Any] = [checkpoint(tmp_path)]
        if processes.rank == rank:
            callbacks.append(Doing(lambda run: run.leyden_fit.course.note_signal(number), 3))
        run = trainer(processes, tmp_path, callbacks=callbacks, max_epochs=50, enable_checkpointing=True)
        try:
            run.fit(Net(processes.rank), batches(), batches(4))
        finally:
            ended[processes.rank] = run.leyden_fit.progress.batches, run.interrupted

    outcomes = outcomes_together(2, body)
    assert seen[0].exchanges == seen[1].exchanges
    assert ended[0] == ended[1]
    if number == signal.SIGTERM:
        assert [type(outcome) for outcome in outcomes] == [TrainingTerminated, TrainingTerminated]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_a_loss_that_is_not_finite_on_one_alone(tmp_path: Path) -> None:
    seen: list[ProcessesOfThreads] = []

    def body(processes: ProcessesOfThreads) -> None:
        seen.append(processes)
        run = trainer(processes, tmp_path, max_epochs=9)
        run.fit(Net(processes.rank, bad_at=3 if processes.rank else None), batches(), batches(4))

    first, second = outcomes_together(2, body)
    assert isinstance(first, NonFiniteLoss)
    assert isinstance(second, NonFiniteLoss)
    assert "of another process" in str(first)
    assert "became nan in training batch 3" in str(second)
    assert seen[0].exchanges == seen[1].exchanges


def test_names_that_differ_are_an_error_on_both(tmp_path: Path) -> None:
    def body(processes: ProcessesOfThreads) -> None:
        trainer(processes, tmp_path).fit(Net(processes.rank, extra=bool(processes.rank)), batches(), batches(4))

    assert [type(outcome) for outcome in outcomes_together(2, body)] == [MetricsDiffer, MetricsDiffer]


def test_between_two_steps_without_a_flush_there_is_none(tmp_path: Path) -> None:
    def body(processes: ProcessesOfThreads) -> list[int]:
        counts: list[int] = []
        callback = Doing(lambda run: counts.append(len(processes.exchanges)))
        run = trainer(processes, tmp_path, callbacks=[callback], max_epochs=1, log_every_n_steps=0)
        # wishes are exchanged by the clock: one that stands still leaves the steps alone
        run.fit(Net(processes.rank), batches(40), batches(2))
        return counts

    for counts in run_together(2, body):
        grown = [later - earlier for earlier, later in itertools.pairwise(counts)]
        assert sum(grown) <= 8, "wishes only, at most four a second"
        assert grown.count(0) >= 30


def test_each_keeps_its_own_state_in_one_file(tmp_path: Path) -> None:
    """Random states differ by rank, and come back to each."""

    def fit(processes: ProcessesOfThreads, epochs: int, ckpt_path: Path | None) -> dict[str, Tensor]:
        torch.manual_seed(processes.rank if ckpt_path is None else 99)
        net = Net(processes.rank)
        if ckpt_path is not None:
            torch.manual_seed(77)
        data = DataLoader(batches().dataset, batch_size=2, shuffle=True)
        run = trainer(processes, tmp_path, max_epochs=epochs)
        run.fit(net, data, batches(3), ckpt_path=ckpt_path)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return {"random": torch.get_rng_state(), "seen": torch.rand(3)}

    whole = run_together(2, lambda processes: fit(processes, 2, None))
    run_together(2, lambda processes: fit(processes, 1, None))
    resumed = run_together(2, lambda processes: fit(processes, 2, tmp_path / "1.ckpt"))
    for mine, theirs in zip(whole, resumed, strict=True):
        assert torch.equal(mine["seen"], theirs["seen"])
    assert not torch.equal(whole[0]["seen"], whole[1]["seen"])
    content = torch.load(tmp_path / "2.ckpt", weights_only=True)
    assert len(content["leyden"]["processes"]) == 2
