"""What users do with loggers besides passing them: read, name, copy and call them, and bring things that look like them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.errors import InvalidType
from leyden.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from leyden.testing import BoringModel

BOTH = [CSVLogger, TensorBoardLogger]


class Saving(BoringModel):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()


def trainer(logger: Any, **options: Any) -> leyden.Trainer:
    defaults: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "log_every_n_steps": 1}
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return leyden.Trainer(logger=logger, **{**defaults, **quiet, **options})


def there(folder: str) -> list[str]:
    return sorted("events" if name.startswith("events.out") else name for name in os.listdir(folder))


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger, WandbLogger, MLFlowLogger, CometLogger])
def test_what_is_no_row_is_named(kind: Any, tmp_path: Path) -> None:
    logger = object.__new__(kind) if kind not in BOTH else kind(tmp_path)
    for given, says in (
        ((3,), "metrics=3 cannot be used: expected a dict of names and values"),
        ((None, 1), "metrics=None cannot be used"),
        (([("a", 1.0)], 1), "metrics=.* cannot be used"),
        (({3: 1.0}, 1), "a name in metrics=3 cannot be used: expected a text"),
        (({"a": 1.0}, "x"), "step='x' cannot be used: expected the number of a step"),
        (({"a": 1.0}, [1]), "step=.* cannot be used"),
    ):
        with pytest.raises(InvalidType, match=says):
            logger.log_metrics(*given)
    for step in (None, 1, np.int64(2), 3.0, torch.tensor(4)) if kind in BOTH else ():
        logger.log_metrics({"a": 1.0}, step)
        logger.save()


# -- the version stays


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("read", [lambda logger: logger.log_dir, lambda logger: logger.version])
def test_a_version_that_was_read_stays(kind: Any, read: Any, tmp_path: Path) -> None:
    logger = kind(tmp_path, name="a")
    read(logger)
    folder = tmp_path / "a" / "version_0"
    assert not folder.exists()
    (folder / "plots").mkdir(parents=True)
    writer = ModelCheckpoint(dirpath=os.path.join(logger.log_dir, "ckpt"))
    trainer(logger, callbacks=[writer], enable_checkpointing=True).fit(Saving())
    assert os.listdir(tmp_path / "a") == ["version_0"]
    assert {"ckpt", "plots", "hparams.yaml"} <= set(os.listdir(folder))


@pytest.mark.parametrize("kind", BOTH)
def test_a_version_that_nobody_read_is_the_next_free_one(kind: Any, tmp_path: Path) -> None:
    logger = kind(tmp_path, name="a")
    assert logger.likely_dir == str(tmp_path / "a" / "version_0")
    (tmp_path / "a" / "version_0").mkdir(parents=True)
    trainer(logger).fit(Saving())
    assert logger.version == 1


# -- hyper-parameters


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("where", [{"name": "a", "version": "mine"}, {"name": ""}, {"name": None}, {"version": 4}])
def test_hyperparameters_are_on_disk_at_once(kind: Any, where: dict[str, Any], tmp_path: Path) -> None:
    logger = kind(tmp_path, **where)
    logger.log_hyperparams({"lr": 0.1, 123: "int", 3.5: "float", 5j: "complex"})
    expected = ["hparams.yaml"] if kind is CSVLogger else ["events", "hparams.yaml", "meta_tags.csv"]
    assert there(logger.log_dir) == expected
    text = Path(logger.log_dir, "hparams.yaml").read_text()
    assert text.splitlines()[:3] == ["lr: 0.1", "123: int", "3.5: float"]
    logger.finalize("success")


@pytest.mark.parametrize("kind", BOTH)
def test_hyperparameters_may_be_none(kind: Any, tmp_path: Path) -> None:
    logger = kind(tmp_path)
    logger.log_hyperparams()
    assert Path(logger.log_dir, "hparams.yaml").read_text() == "{}\n"
    logger.finalize("success")


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("model", "text"), [(BoringModel, "{}\n"), (Saving, "width: 3\n")])
@pytest.mark.parametrize("autolog", [True, False])
def test_the_file_is_there_after_any_fit_and_loads(kind: Any, model: Any, text: str, autolog: bool, tmp_path: Path) -> None:
    logger = kind(tmp_path)
    mine = trainer(logger, enable_autolog_hparams=autolog)
    mine.fit(model())
    mine.save_checkpoint(tmp_path / "a.ckpt")
    path = os.path.join(logger.log_dir, "hparams.yaml")
    assert Path(path).read_text() == (text if autolog else "{}\n")
    model.load_from_checkpoint(tmp_path / "a.ckpt", hparams_file=path)


# -- called as Lightning calls


class Written(Logger):
    name = "mine"  # type: ignore[assignment]  # users write it so
    version = 3  # type: ignore[assignment]  # as above

    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, Any], Any]] = []

    def log_metrics(self, *, metrics: dict[str, Any], step: int | None = None) -> None:  # type: ignore[override]  # by keyword only
        self.rows.append((metrics, step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


class Logging(Saving):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.step(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch), on_step=True, on_epoch=True)


def test_metrics_come_by_keyword() -> None:
    logger = Written()
    trainer(logger).fit(Logging())
    assert [step for row, step in logger.rows if "loss_step" in row] == [0, 1]
    with mock.patch.object(CSVLogger, "log_metrics") as method:
        trainer(CSVLogger(".")).fit(Logging())
    assert method.call_args_list
    assert all(set(call.kwargs) == {"metrics", "step"} and not call.args for call in method.call_args_list)


class Alike:
    """A third party's, no subclass of ours, with no more than it takes."""

    name = "alike"
    version = "7"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.calls.append("log_metrics")

    def log_hyperparams(self, params: Any) -> None:
        self.calls.append(f"log_hyperparams {params}")

    def save(self) -> None:
        self.calls.append("save")

    def finalize(self, status: str) -> None:
        self.calls.append(f"finalize {status}")


@pytest.mark.parametrize("several", [False, True])
def test_what_has_a_logger_s_methods_is_a_logger(several: bool, tmp_path: Path) -> None:
    logger = Alike()
    mine = trainer([logger, CSVLogger(tmp_path)] if several else logger, callbacks=[ModelCheckpoint()], enable_checkpointing=True)
    mine.fit(Logging())
    assert logger.calls[:2] == ["log_hyperparams {'width': 3}", "save"]
    assert "log_metrics" in logger.calls
    assert logger.calls[-1] == "finalize success"
    mine.fit(Logging(), ckpt_path=mine.checkpoint_callback.best_model_path)
    mine.test(Logging(), verbose=False)


@pytest.mark.parametrize(
    "make", [mock.MagicMock, mock.Mock, lambda: mock.Mock(spec=Logger), lambda: mock.MagicMock(spec=CSVLogger)]
)
@pytest.mark.parametrize("model", [Saving, BoringModel])
def test_only_lightning_s_methods_are_called_on_a_mock(make: Any, model: Any, tmp_path: Path) -> None:
    logger = make()
    seen: list[list[str]] = []

    class Looking(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
            seen.append([name for name, _, _ in logger.method_calls])

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append([name for name, _, _ in logger.method_calls])

    trainer(logger, callbacks=[Looking()], default_root_dir=tmp_path).fit(model())
    before, at_start = seen
    assert before == []
    assert at_start == (["log_hyperparams"] if model is Saving else []) + ["log_graph", "save"]
    known = {"log_metrics", "log_hyperparams", "log_graph", "save", "finalize", "after_save_checkpoint"}
    assert {name for name, _, _ in logger.method_calls} <= known


@pytest.mark.parametrize("given", [object(), "tensorboard", CSVLogger, [object()], 3])
def test_what_has_not_is_refused(given: Any) -> None:
    with pytest.raises(InvalidType):
        leyden.Trainer(logger=given)


# -- pickled, subclassed, called alone


@pytest.mark.parametrize("kind", BOTH)
def test_a_used_logger_pickles_and_its_copy_logs(kind: Any, tmp_path: Path) -> None:
    logger = kind(tmp_path)
    mine = trainer(logger)
    mine.fit(Logging())
    logger.log_metrics({"x": 1.0}, 5)
    copy = pickle.loads(pickle.dumps(logger))
    assert copy.log_dir == logger.log_dir
    copy.log_metrics(metrics={"y": 2.0}, step=6)
    copy.finalize("success")
    again = pickle.loads(pickle.dumps(mine))
    again.fit(Logging())
    assert again.logger.version == logger.version
    logger.finalize("success")


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(
    ("own", "folder"),
    [
        ({"name": "mine"}, "mine/version_0"),
        ({"version": "x"}, "lightning_logs/x"),
        ({"version": 5}, "lightning_logs/version_5"),
        ({"name": "mine", "version": 5}, "mine/version_5"),
        ({"root_dir": "elsewhere"}, "elsewhere/version_0"),
        ({"save_dir": "elsewhere"}, "elsewhere/lightning_logs/version_0"),
        ({"log_dir": "elsewhere/this"}, "elsewhere/this"),
    ],
)
def test_what_a_subclass_says_of_its_place_holds(kind: Any, own: dict[str, Any], folder: str, tmp_path: Path) -> None:
    logger = type("Mine", (kind,), {name: property(lambda self, value=value: value) for name, value in own.items()})("")
    assert os.path.normpath(logger.log_dir) == folder
    trainer(logger).fit(Logging())
    assert "hparams.yaml" in os.listdir(tmp_path / folder)


def test_a_subclass_may_build_on_the_base_s_properties(tmp_path: Path) -> None:
    class Mine(CSVLogger):
        @property
        def log_dir(self) -> str:
            return os.path.join(self.root_dir, f"run-{self.version}")

    logger = Mine(tmp_path, name="a")
    trainer(logger).fit(Logging())
    assert os.listdir(tmp_path / "a" / "run-0")


@pytest.mark.parametrize("example", [None, {"x": 1}, torch.ones(2, 5), "text"])
def test_a_graph_that_cannot_be_drawn_is_a_warning(example: Any, tmp_path: Path) -> None:
    model = BoringModel()
    model.example_input_array = example
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    with pytest.warns(UserWarning, match="graph"):
        logger.log_graph(model)
    logger.finalize("success")


def test_a_graph_is_drawn_of_a_module_without_a_trainer(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(BoringModel(), torch.ones(2, 32))
    logger.log_graph(nn.Linear(2, 1), torch.ones(2, 2))
    logger.finalize("success")


def test_the_table_is_flushed_by_save(tmp_path: Path) -> None:
    saved = []

    class Mine(CSVLogger):
        def save(self) -> None:
            super().save()
            saved.append(True)

    logger = Mine(tmp_path, flush_logs_every_n_steps=2)
    for step in range(6):
        logger.log_metrics({"x": step}, step)
    assert len(saved) == 3
