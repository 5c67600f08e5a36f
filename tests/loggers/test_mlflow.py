"""MLFlowLogger: real runs in a folder and in a database, read back; a server that fails, on a stand-in."""

from __future__ import annotations

import copy
import os
import pickle
import random
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import kit
import numpy as np
import pytest
import torch
from services import csv_rows, mlflow_values, single

from leyden.callbacks import ModelCheckpoint
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import IgnoredSetting, InvalidOption, InvalidType, LeydenWarning, MissingPackage
from leyden.loggers import CSVLogger, MLFlowLogger
from leyden.loggers.background import Background
from leyden.plugins.io import ShardedCheckpointIO


class Saving(kit.Net):
    def __init__(self, lr: float = 0.1, deep: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()


def data() -> Any:
    return kit.DataLoader(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), batch_size=3, shuffle=True)


def fit(logger: Any, *, module: Any = None, **options: Any) -> Any:
    torch.manual_seed(3)
    return kit.fit(module or kit.Net(), data(), data(), logger=logger, log_every_n_steps=1, **options)


def run_of(logger: MLFlowLogger) -> Any:
    return logger.experiment.get_run(logger.run_id)


def values_of(logger: MLFlowLogger, name: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in logger.experiment.get_metric_history(logger.run_id, name)]


# -- real runs


def test_a_run_in_a_folder(tmp_path: Path) -> None:
    places = {"save_dir": str(tmp_path / "m"), "artifact_location": f"file:{tmp_path}/a"}
    logger = MLFlowLogger("shown", "mine", tags={"a": "b"}, log_model=True, prefix="my", **places)
    writer = ModelCheckpoint(monitor="val_loss", save_last=False)
    module = Saving(0.2, {"a": [{"b": 1}, {"c": 2}], "n": {"m": "x" * 300}})
    table = CSVLogger(tmp_path, prefix="my")
    fit([logger, table], module=module, max_epochs=2, enable_checkpointing=True, callbacks=[writer])

    assert mlflow_values(f"file:{tmp_path}/m") == single(csv_rows(Path(table.log_dir) / "metrics.csv"))
    run = run_of(logger)
    assert (run.info.status, run.info.run_name, run.info.run_id) == ("FINISHED", "mine", logger.run_id)
    assert run.data.params == {"lr": "0.2", "deep/a/0/b": "1", "deep/a/1/c": "2", "deep/n/m": "x" * 250}
    assert run.data.tags["a"] == "b"
    assert logger.experiment.get_experiment(logger.experiment_id).name == "shown"
    assert (logger.name, logger.version) == (logger.experiment_id, logger.run_id)
    assert (logger.save_dir, logger.log_dir) == (str(tmp_path / "m"), None)
    assert Path(writer.best_model_path).parent == tmp_path / "m" / str(logger.name) / str(logger.version) / "checkpoints"
    folder = Path(writer.best_model_path).stem
    assert f"{tmp_path}/a/" in run.info.artifact_uri
    assert {each.path for each in logger.experiment.list_artifacts(logger.run_id, folder)} == {
        f"{folder}/{name}" for name in ("aliases.txt", "metadata.yaml", os.path.basename(writer.best_model_path))
    }
    sent = Path(logger.experiment.download_artifacts(logger.run_id, folder))
    assert (sent / "aliases.txt").read_text() == "['latest', 'best']"
    assert f"score: {float(writer.best_model_score)}" in (sent / "metadata.yaml").read_text()


def test_a_run_in_a_database_changes_no_bit_and_draws_no_number(tmp_path: Path) -> None:
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    def whole(logger: Any) -> tuple[Any, Any]:
        random.seed(3)
        np.random.seed(3)
        module = kit.Net()
        torch.manual_seed(3)
        module.load_state_dict({name: torch.ones_like(value) for name, value in module.state_dict().items()})
        fit(logger, module=module)
        return kit.weights(module), drawn()

    logger = MLFlowLogger("e", tracking_uri=f"sqlite:///{tmp_path}/m.db", artifact_location=str(tmp_path))
    alone, with_it = whole(False), whole([logger, CSVLogger(tmp_path)])
    assert kit.same(alone, with_it)
    assert logger.save_dir is None
    table = csv_rows(tmp_path / "lightning_logs" / "version_0" / "metrics.csv")
    assert mlflow_values(f"sqlite:///{tmp_path}/m.db") == single(table)


def test_a_run_that_fails_and_one_that_is_tested(tmp_path: Path) -> None:
    def fail() -> None:
        raise kit.Crash

    logger = MLFlowLogger(save_dir=tmp_path)
    with pytest.raises(kit.Crash):
        fit(logger, callbacks=[kit.at_batch(2, fail)])
    assert run_of(logger).info.status == "FAILED"
    assert len(values_of(logger, "loss")) == 2

    statuses: list[str] = []
    look = kit.Recorder(on_train_start=lambda *_: statuses.append(run_of(logger).info.status))
    fit(logger, callbacks=[look])
    assert statuses == ["RUNNING"]
    assert run_of(logger).info.status == "FINISHED"
    assert len(values_of(logger, "loss")) == 6


@pytest.mark.parametrize(("status", "said"), [("finished", "FINISHED"), ("aborted", "KILLED"), ("FAILED", "FAILED")])
def test_how_a_run_ended(status: str, said: str, tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=tmp_path)
    logger.finalize(status)  # nothing was begun
    logger.log_metrics({"a": 1})
    logger.finalize(status)
    assert run_of(logger).info.status == said


def test_rows_between_verbs_are_written_at_once(tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=tmp_path, experiment_name="e")
    logger.log_metrics({"a": 1.5, "b": torch.tensor(2), "c": np.float64(3)}, step=4)
    logger.log_metrics({"a": 2.5})
    rows = [("a", 1.5, 4.0), ("b", 2.0, 4.0), ("c", 3.0, 4.0), ("a", 2.5, 0.0)]
    assert mlflow_values(f"file:{tmp_path}") == {((name, value), ("step", step)): 1 for name, value, step in rows}


def test_what_the_user_writes_comes_after_what_was_logged(tmp_path: Path) -> None:
    seen: list[int] = []

    def look(trainer: Any, *_: Any) -> None:
        logger = trainer.logger
        seen.append(len(values_of(logger, "loss")) if trainer.global_step > 1 else 0)
        logger.experiment.log_text(logger.run_id, "words", f"{trainer.global_step}.txt")

    logger = MLFlowLogger(save_dir=tmp_path)
    fit(logger, callbacks=[kit.Recorder(on_train_batch_end=look)])
    assert seen == [0, 1, 2, 3]
    assert {each.path for each in logger.experiment.list_artifacts(logger.run_id)} == {f"{number}.txt" for number in (1, 2, 3, 4)}


@pytest.mark.parametrize("synchronous", [True, False])
def test_synchronous(synchronous: bool, tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=tmp_path, synchronous=synchronous)
    fit(logger, module=Saving())
    assert sorted(step for step, _ in values_of(logger, "loss")) == [0, 1, 2, 3]  # MLflow's own queue does not keep the order
    assert run_of(logger).data.params["lr"] == "0.1"


def test_names_and_text_that_mlflow_does_not_take(tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=tmp_path)
    with pytest.warns(RuntimeWarning, match=r"letters.*'f1@0\.5' is logged as 'f10\.5'"):
        logger.log_metrics({"f1@0.5": 1.0})
    logger.log_metrics({"f1@0.5": 2.0})  # said once
    with pytest.warns(IgnoredSetting, match="MLflow's metrics are numbers: a='text' is left out"):
        logger.log_metrics({"a": "text", "b": 1})
    assert sorted(run_of(logger).data.metrics) == ["b", "f10.5"]
    for value in (torch.ones(2), [1, 2], None):
        with pytest.raises(InvalidType, match=r"metrics\['c'\]=.* expected (a|one) number"):
            logger.log_metrics({"c": value})


def test_parameters_stay_as_they_were_first(tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=tmp_path)
    logger.log_hyperparams(Namespace(lr=1, net="a"))
    logger.log_hyperparams({"lr": 1, "new": 2})
    with pytest.warns(LeydenWarning, match=r"not written: lr='5' \(the run has '1'\)\."):
        logger.log_hyperparams({"lr": 5, "other": 3})
    logger.log_hyperparams({f"p{number}": number for number in range(150)})
    assert {"lr": "1", "net": "a", "new": "2", "other": "3", "p149": "149"}.items() <= run_of(logger).data.params.items()


def test_a_run_that_there_is(tmp_path: Path) -> None:
    first = MLFlowLogger("e", save_dir=tmp_path)
    first.log_metrics({"a": 1})
    again = MLFlowLogger(save_dir=tmp_path, run_id=first.run_id)
    assert (again.version, again.name) == (first.run_id, first.experiment_id)
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        copied.log_metrics({"a": 2}, 1)
        assert copied.run_id == first.run_id
    assert [value for _, value in values_of(again, "a")] == [1, 2, 2]
    assert MLFlowLogger("e", save_dir=tmp_path).experiment_id == first.experiment_id


def test_where_rows_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MLFlowLogger().save_dir == "./mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a-server")
    assert MLFlowLogger().save_dir is None
    assert MLFlowLogger(tracking_uri="file:here").save_dir == "here"
    assert list(tmp_path.iterdir()) == []  # nothing is made before it is used


# -- a job that is run again


def rerun(folder: Path, at: int | None, **arguments: Any) -> MLFlowLogger:
    def fail() -> None:
        raise kit.Crash

    logger = MLFlowLogger("e", save_dir=folder, **arguments)
    callbacks: list[Any] = [ModelCheckpoint(every_n_train_steps=2)]
    if at is not None:
        callbacks.append(kit.at_batch(at, fail))
    try:
        fit(logger, max_epochs=2, enable_checkpointing=True, callbacks=callbacks, ckpt_path="last")
    except kit.Crash:
        assert at is not None
    return logger


def test_a_job_that_is_run_again_goes_on_in_its_run(tmp_path: Path) -> None:
    whole = rerun(tmp_path / "whole", None)
    first = rerun(tmp_path / "m", 5)
    second = rerun(tmp_path / "m", 7)
    third = rerun(tmp_path / "m", None)
    assert first.run_id == second.run_id == third.run_id
    assert mlflow_values(f"file:{tmp_path}/m") == mlflow_values(f"file:{tmp_path}/whole")
    assert run_of(third).info.status == run_of(whole).info.status == "FINISHED"


def test_a_job_that_is_run_again_before_its_first_checkpoint(tmp_path: Path) -> None:
    given = MLFlowLogger("e", save_dir=tmp_path).run_id
    rerun(tmp_path, 1, run_id=given)
    rerun(tmp_path, None, run_id=given)
    rerun(tmp_path / "whole", None)
    assert mlflow_values(f"file:{tmp_path}") == mlflow_values(f"file:{tmp_path}/whole")


# -- what cannot work


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"experiment_name": ""}, InvalidOption, "experiment_name='' cannot be used"),
        ({"experiment_name": 5}, InvalidType, "experiment_name=5"),
        ({"tags": ["a"]}, InvalidType, r"tags=\['a'\] cannot be used: expected a dict"),
        ({"synchronous": 1}, InvalidType, "synchronous=1 cannot be used: expected True, False or None"),
        ({"log_model": "some"}, InvalidOption, "log_model='some'"),
        ({"save_dir": None}, InvalidType, "save_dir=None cannot be used: expected a path, where no tracking_uri"),
        ({"run_nam": "a"}, TypeError, "unknown argument 'run_nam'.* 'run_name'"),
    ],
)
def test_bad_arguments(given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        MLFlowLogger(**given)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingPackage, match=r"MLFlowLogger needs the package 'mlflow'.*pip install 'leyden\[mlflow\]'"):
        MLFlowLogger()


def test_what_is_not_there_is_said_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    steps = kit.Recorder()
    for given, said in (
        ({"save_dir": tmp_path / "file" / "m"}, r"save_dir='.*file/m' cannot be used: expected a folder that can be written"),
        ({"save_dir": tmp_path / "m", "run_id": "none"}, "run_id='none' cannot be used: expected a run at file:"),
    ):
        with pytest.raises(InvalidOption, match=said):
            fit(MLFlowLogger(**given), callbacks=[steps])  # type: ignore[arg-type]  # each of its type
    logger = MLFlowLogger("gone", save_dir=tmp_path / "m")
    logger.experiment.delete_experiment(logger.experiment_id)
    with pytest.raises(InvalidOption, match=r"experiment_name='gone' cannot be used.* MLflow says: "):
        fit(MLFlowLogger("gone", save_dir=tmp_path / "m"), callbacks=[steps])
    assert "on_train_start" not in steps.names


def test_a_checkpoint_that_is_a_folder(tmp_path: Path) -> None:
    logger = MLFlowLogger(save_dir=tmp_path / "m", log_model="all")
    writer = ModelCheckpoint(tmp_path / "c", "kept", save_last=False)
    fit(logger, callbacks=[writer], enable_checkpointing=True, plugins=[ShardedCheckpointIO()])
    (copied,) = (tmp_path / "m").glob("**/artifacts/kept/kept.ckpt")
    assert sorted(os.listdir(copied)) == sorted(os.listdir(tmp_path / "c" / "kept.ckpt"))
    assert kit.same(
        kit.Net.load_from_checkpoint(copied).state_dict(), kit.Net.load_from_checkpoint(writer.best_model_path).state_dict()
    )


def test_on_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "_rank", 1)
    logger = MLFlowLogger(save_dir=tmp_path / "m", log_model="all")
    logger.log_metrics({"a": 1})
    logger.log_hyperparams({"a": 1})
    logger.experiment.log_text("a")
    logger.leyden_start(lambda own: ["the first one's", "its experiment"])
    logger.finalize("success")
    assert (logger.version, logger.name) == ("the first one's", "its experiment")
    assert not (tmp_path / "m").exists()


class Server:
    """In place of the client: it takes no rows as long as it is ``down``."""

    def __init__(self) -> None:
        self.down = True
        self.rows: list[tuple[str, float, int]] = []

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        if self.down:
            raise ConnectionError("nobody there")
        self.rows += [(each.key, each.value, each.step) for each in metrics]


def served(monkeypatch: pytest.MonkeyPatch, at_batch: Callable[[int, Server], None]) -> tuple[Server, Any]:
    server = Server()
    logger = MLFlowLogger(tracking_uri="http://a-server")
    client = mock.MagicMock()
    client.log_batch = server.log_batch
    client.get_run.return_value.data.params = {}
    monkeypatch.setattr("mlflow.tracking.MlflowClient", lambda uri: client)

    def look(trainer: Any, *_: Any) -> None:
        logger.save()
        at_batch(trainer.global_step, server)

    return server, lambda: fit(logger, callbacks=[kit.Recorder(on_train_batch_end=look)])


def test_a_server_that_is_away_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    def comes(step: int, server: Server) -> None:
        server.down = step < 3

    server, run = served(monkeypatch, comes)
    with pytest.warns(LeydenWarning, match=r"Rows cannot be written to http://a-server: nobody there\. They wait for the next"):
        run()
    assert [step for name, _, step in server.rows if name == "loss"] == [0, 1, 2, 3]


def test_a_server_that_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    server, run = served(monkeypatch, lambda step, server: None)
    with pytest.warns(LeydenWarning) as caught:
        run()
    assert "The last 10 values are lost" in str(caught[-1].message)
    assert not server.rows


def test_the_thread_gives_again_what_was_not_written() -> None:
    written: list[int] = []
    down = [True]

    def write(items: list[int]) -> None:
        if down:
            raise OSError("down")
        written.extend(items)
        items.clear()

    thread = Background(write)
    thread.give([1])
    assert thread.wait() == 1
    assert str(thread.error) == "down"
    thread.give([2])
    assert thread.wait() == 2
    down.clear()
    assert thread.wait() == 0
    thread.give([3])
    assert (thread.wait(), thread.error) == (0, None)
    thread.end()
    assert written == [1, 2, 3]
