"""Loggers through the trainer: files are there, rows are right, and training is the same with and without."""

from __future__ import annotations

import os
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from kit import Logging, rows
from kit import trainer as trainer_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from warm_python import python

from leyden import LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.errors import InvalidOption, InvalidType
from leyden.loggers import CSVLogger, Logger, TensorBoardLogger
from leyden.testing import Recorder, random_batches


class Model(LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.example_input_array = torch.ones(2, 4)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(batch)  # type: ignore[no-any-return]  # a Tensor

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self(batch[0]).pow(2).mean()
        self.log("loss", loss, on_step=True)
        self.log("count", batch_idx, on_step=True)
        return loss  # type: ignore[no-any-return]  # a Tensor

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self(batch[0]).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def loader() -> Any:
    return DataLoader(TensorDataset(torch.linspace(-1, 1, 64).reshape(16, 4)), batch_size=4)


def trained(logger: Any, **options: Any) -> Model:
    torch.manual_seed(0)
    model = Model()
    Trainer(
        max_epochs=2, logger=logger, log_every_n_steps=2, enable_progress_bar=False, enable_model_summary=False, **options
    ).fit(model, loader(), loader())
    return model


def test_both_loggers_hold_the_same_rows(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    table, board = CSVLogger(tmp_path, name="table"), TensorBoardLogger(tmp_path, name="board", log_graph=True)
    model = trained([table, board])
    found = rows(table.log_dir)
    assert [row["step"] for row in found if "loss" in row] == ["1", "3", "5", "7"]
    assert [row["count"] for row in found if "count" in row] == ["1", "3", "1", "3"]
    assert [row["step"] for row in found if "val_loss" in row] == ["3", "7"]
    assert {row["epoch"] for row in found} == {"0", "1"}
    accumulator = EventAccumulator(board.log_dir)
    accumulator.Reload()
    for name in ("loss", "count", "val_loss"):
        written = [(str(event.step), event.value) for event in accumulator.Scalars(name)]
        assert written == [(row["step"], pytest.approx(float(row[name]))) for row in found if name in row]
    assert accumulator.Tags()["graph"]
    for logger in (table, board):
        assert (Path(logger.log_dir) / "hparams.yaml").read_text() == "lr: 0.1\n"
    assert model.hparams["lr"] == 0.1


def test_logging_changes_nothing(tmp_path: Path) -> None:
    logged = trained([CSVLogger(tmp_path), TensorBoardLogger(tmp_path, name="board", log_graph=True)])
    alone = trained(False)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, logged.state_dict()[name]), name


@pytest.mark.parametrize(
    ("kind", "value"), [(CSVLogger, torch.ones(2)), (TensorBoardLogger, torch.ones(2)), (TensorBoardLogger, "a")]
)
def test_what_cannot_be_written_ends_the_step_that_logs_it(kind: Any, value: Any, tmp_path: Path) -> None:
    class Wrong(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 1:
                self.logger.log_metrics({"wrong": value}, step=batch_idx)  # type: ignore[union-attr]  # there is one
            return super().training_step(batch, batch_idx)

    run = trainer_of(logger=kind(tmp_path), limit_val_batches=0)
    with pytest.raises(InvalidType, match=r"metrics\['wrong'\]="):
        run.fit(Wrong(), DataLoader(TensorDataset(torch.ones(4, 4))))
    assert run.global_step == 1


def test_a_logger_of_ones_own_gets_numbers() -> None:
    class Mine(Logger):
        def __init__(self) -> None:
            self.values: list[Any] = []
            self.ended: list[str] = []

        name = "mine"
        version = 0

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.values += metrics.values()

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            self.values.append(params["lr"])

        def finalize(self, status: str) -> None:
            self.ended.append(status)

    mine = Mine()
    trained(mine)
    assert mine.values[0] == 0.1
    assert {type(value) for value in mine.values} <= {int, float}
    assert mine.ended == ["success"]


def test_an_exception_finalizes_the_logger(tmp_path: Path) -> None:
    class Broken(Model):
        def on_train_epoch_end(self) -> None:
            raise KeyError("mine")

    logger = CSVLogger(tmp_path)
    trainer = Trainer(max_epochs=1, logger=logger, log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(KeyError, match="mine"):
        trainer.fit(Broken(), loader(), loader())
    assert [row["count"] for row in rows(logger.log_dir) if "count" in row] == ["0", "1", "2", "3"]


def test_a_folder_that_cannot_be_written_ends_the_run_before_it_trains(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    class Untouched(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise AssertionError("it trains")

    trainer = Trainer(max_epochs=1, logger=CSVLogger(tmp_path / "file"), enable_progress_bar=False)
    with pytest.raises(InvalidOption, match="a folder that can be written"):
        trainer.fit(Untouched(), loader(), loader())


def test_making_a_trainer_writes_nothing(tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=str(tmp_path), max_epochs=1)
    assert trainer.log_dir == str(tmp_path / "lightning_logs/version_0")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("version", [None, "mine"])
def test_a_killed_and_resumed_run_has_the_rows_of_an_uninterrupted_one(tmp_path: Path, version: str | None) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Plain(Model):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(4, 1))  # draws nothing: this is about rows

    class Killed(Plain):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            if self.current_epoch == 2 and batch_idx == 2:
                raise KeyError("killed")

    def run(kind: type[Plain], folder: str, ckpt_path: str | None = None) -> list[Any]:
        torch.manual_seed(0)
        loggers = [
            CSVLogger(tmp_path / folder, version=version),
            TensorBoardLogger(tmp_path / folder, name="tb", version=version),
        ]
        trainer = Trainer(
            max_epochs=4,
            logger=loggers,
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ModelCheckpoint(dirpath=tmp_path / folder / "kept", save_last=True)],
        )
        try:
            trainer.fit(kind(), loader(), loader(), ckpt_path=ckpt_path)
        except KeyError:
            assert ckpt_path is None
        return loggers

    whole = run(Plain, "whole")
    run(Killed, "cut")
    again = run(Plain, "cut", str(tmp_path / "cut/kept/last.ckpt"))
    assert rows(again[0].log_dir) == rows(whole[0].log_dir)
    found = []
    for logger in (again[1], whole[1]):
        accumulator = EventAccumulator(logger.log_dir)
        accumulator.Reload()
        names = accumulator.Tags()["scalars"]
        found.append({name: sorted((event.step, event.value) for event in accumulator.Scalars(name)) for name in names})
    assert found[0] == found[1]


def test_the_trainer_s_logger_may_be_set(tmp_path: Path) -> None:
    first, second, third = (CSVLogger(tmp_path, name=name) for name in ("first", "second", "third"))
    trainer = Trainer(logger=first, max_epochs=1, enable_progress_bar=False, enable_model_summary=False)
    trainer.logger = second
    assert trainer.loggers == [second]
    trainer.fit(Model(), loader(), loader())
    assert [row["step"] for row in rows(second.log_dir)] == ["3"]
    assert not os.path.exists(first.log_dir)
    trainer.loggers = [third, first]
    assert trainer.logger is third
    trainer.logger = None
    assert (trainer.loggers, trainer.logger) == ([], None)
    trainer.loggers = None
    assert (trainer.loggers, trainer.logger) == ([], None)
    with pytest.raises(InvalidType, match="logger=5 cannot be used: expected a Logger, or None"):
        trainer.logger = 5  # type: ignore[assignment]  # the mistake under test


def test_a_logger_that_a_hook_puts_in_place_keeps_its_rows(tmp_path: Path) -> None:
    class Changing(Model):
        def setup(self, stage: str) -> None:
            self.trainer.logger = CSVLogger(tmp_path, name="mine")

    trainer = Trainer(logger=False, max_epochs=1, log_every_n_steps=1, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Changing(), loader(), loader())
    assert trainer.logger is not None
    assert len(rows(trainer.logger.log_dir)) >= 4


def test_a_broken_tensorboard_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    def broken(name: str) -> None:
        raise TypeError("Descriptors cannot be created directly.")

    trainer = Trainer(max_epochs=1, logger=TensorBoardLogger(tmp_path), enable_progress_bar=False, enable_model_summary=False)
    monkeypatch.delitem(sys.modules, "tensorboard.compat.proto.event_pb2", raising=False)
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(InvalidOption, match=r"can be imported.*Descriptors cannot.*or pass logger=CSVLogger"):
        trainer.fit(Model(), loader())


def test_what_the_user_warns_of_is_shown_once(tmp_path: Path) -> None:
    program = """
        import sys, warnings, torch, kit, leyden
        class Net(kit.Net):
            def training_step(self, batch, batch_idx):
                warnings.warn("mine")
                return super().training_step(batch, batch_idx)
        data = torch.utils.data.DataLoader(torch.ones(4, 4))
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("default")
            kit.trainer(logger=True, enable_checkpointing=None, max_epochs=3, log_every_n_steps=1).fit(Net(), data, data)
        print([str(each.message) for each in shown])
    """
    here = str(Path(__file__).resolve().parents[1])
    done = python("-c", f"import sys; sys.path.insert(0, {here!r})\n" + dedent(program), folder=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["['mine']"], done.stderr


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start"])
def test_a_logger_that_is_set_in_a_hook_gets_the_rows(hook: str) -> None:
    def put(run: Any, *_: Any, **__: Any) -> None:
        run.logger = CSVLogger("late")

    run = trainer_of(Recorder(**{hook: put}), log_every_n_steps=1, limit_val_batches=0)
    run.fit(Logging(), random_batches(2))
    assert ["train_loss" in row for row in rows(run.log_dir)] == [True, True]


def test_hyper_parameters_that_hold_themselves_are_logged(tmp_path: Path) -> None:
    class Holds(Logging):
        def __init__(self, tree: Any, ring: Any) -> None:
            super().__init__()
            self.save_hyperparameters()

    tree: dict[str, Any] = {"name": "root", "children": []}
    tree["children"].append({"name": "leaf", "parent": tree})
    ring: dict[str, Any] = {"a": 1}
    ring["again"] = ring
    table = CSVLogger(tmp_path)
    trainer_of(logger=[table, TensorBoardLogger(tmp_path)], max_steps=1).fit(Holds(tree, ring), random_batches(1))
    written = Path(str(table.log_dir), "hparams.yaml").read_text().splitlines()
    assert [line.strip() for line in written if "..." in line] == ['parent: "..."', 'again: "..."']
