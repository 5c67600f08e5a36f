"""CometLogger, on a stand-in for the package."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import kit
import pytest
import torch

from leyden.callbacks import ModelCheckpoint
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import ConflictingOptions, InvalidOption, LegacyNotice, MissingPackage
from leyden.loggers import CometLogger, services
from leyden.loggers import comet as room
from leyden.notices import noticed, tell


class Experiment:
    """What ``comet_ml.start`` gives back. Keeps what is called on it."""

    def __init__(self, key: str) -> None:
        self.key, self.project_name = key, "the project"
        self.calls: list[tuple[str, Any]] = []

    def get_key(self) -> str:
        return self.key

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and not name.startswith("__internal_api__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name.removeprefix("__internal_api__").strip("_"), args or kwargs))

    def rows(self) -> list[tuple[dict[str, Any], int]]:
        return [(args[0], index) for index, (name, args) in enumerate(self.calls) if name == "log_metrics"]


class Package(types.ModuleType):
    """In place of ``comet_ml``."""

    def __init__(self) -> None:
        super().__init__("comet_ml")
        self.made: list[Experiment] = []
        self.start = mock.Mock(side_effect=self.begin)
        self.ExperimentConfig = mock.Mock(
            side_effect=lambda **given: types.SimpleNamespace(**{"offline_directory": None, **given})
        )
        self.exceptions = types.SimpleNamespace(ExperimentNotFound=LookupError)

    def begin(self, **given: Any) -> Experiment | None:
        if given["experiment_key"] == "unknown":
            return None
        self.made.append(Experiment(given["experiment_key"] or f"key{len(self.made)}"))
        return self.made[-1]


@pytest.fixture(autouse=True)
def comet(monkeypatch: pytest.MonkeyPatch) -> Package:
    package = Package()
    monkeypatch.setitem(sys.modules, "comet_ml", package)
    monkeypatch.setenv("COMET_DISABLE_AUTO_LOGGING", "")
    return package


def data() -> Any:
    return kit.DataLoader(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), batch_size=3, shuffle=True)


def test_arguments(comet: Package) -> None:
    logger = CometLogger(
        api_key="a", workspace="w", project="p", experiment_key="k", mode="get", online=True, prefix="x", name="n", tags=["t"]
    )
    comet.ExperimentConfig.assert_called_once_with(name="n", tags=["t"])
    assert comet.start.call_args.kwargs == {
        "api_key": "a", "workspace": "w", "project": "p", "experiment_key": "k", "mode": "get", "online": True,
        "experiment_config": logger._comet_config,
    }  # fmt: skip
    assert (logger.version, logger.name, logger.save_dir, logger.log_dir) == ("k", "the project", None, None)
    assert comet.made[0].calls == [("log_other", ("Created from", "pytorch-lightning"))]
    assert logger.experiment is comet.made[0]


def test_offline(comet: Package, tmp_path: Path) -> None:
    logger = CometLogger(online=False, offline_directory=str(tmp_path))
    comet.ExperimentConfig.assert_called_once_with(offline_directory=str(tmp_path), disabled=True)
    assert comet.start.call_args.kwargs["online"] is False
    assert logger.save_dir == str(tmp_path)


def test_older_arguments(comet: Package) -> None:
    noticed.clear()
    logger = CometLogger(project_name="p", experiment_name="n", offline=True, save_dir="d")  # as in 2.4
    assert comet.start.call_args.kwargs["project"] == "p"
    assert comet.start.call_args.kwargs["online"] is False
    assert (logger._comet_config.name, logger.save_dir) == ("n", "d")
    with pytest.warns(LegacyNotice, match=r"CometLogger\(project_name=\.\.\.\) +CometLogger\(project=\.\.\.\)"):
        tell()
    with pytest.raises(ConflictingOptions, match="project_name= and project=, which mean the same"):
        CometLogger(project_name="p", project="q")


def test_what_cannot_work(comet: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match="mode='new' cannot be used: expected one of 'get_or_create', 'get', 'create'"):
        CometLogger(mode="new")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(LookupError, match="no experiment for experiment_key='unknown'"):
        CometLogger(experiment_key="unknown")
    with pytest.raises(TypeError):
        CometLogger("key")  # type: ignore[misc]  # all are keywords
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    with pytest.raises(MissingPackage, match=r"CometLogger needs the package 'comet-ml'.*pip install comet-ml"):
        CometLogger()


def test_what_is_logged(comet: Package) -> None:
    logger = CometLogger(prefix="x")
    logger.log_metrics({"a": torch.tensor(0.5, requires_grad=True), "epoch": 2}, step=3)
    logger.log_hyperparams({"lr": 1, "deep": {"a": 2}})
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.finalize("success")
    (_, metrics), (_, params), (graph, _), (flush, _) = comet.made[0].calls[1:]
    assert metrics == ({"a": 0.5},)
    assert not metrics[0]["a"].requires_grad
    assert params == {
        "parameters": {"lr": 1, "deep": {"a": 2}}, "framework": "pytorch-lightning", "flatten_nested": True, "source": "manual"
    }  # fmt: skip
    assert (graph, flush) == ("set_model_graph", "flush")


def test_a_fit(comet: Package, tmp_path: Path) -> None:
    logger = CometLogger(offline_directory=str(tmp_path))
    trainer = kit.fit(
        kit.Net(), data(), data(), logger=logger, log_every_n_steps=1, enable_checkpointing=True, callbacks=[ModelCheckpoint()]
    )
    names = [set(row) for row, _ in comet.made[0].rows()]
    assert names == [{"loss"}] * 4 + [{"val_loss"}]
    assert all(isinstance(value, float) for row, _ in comet.made[0].rows() for value in row.values())
    assert comet.made[0].calls[-1][0] == "flush"
    folder = Path(trainer.checkpoint_callback.best_model_path).parent  # type: ignore[union-attr]  # there is one
    assert folder == tmp_path / "the project" / "key0" / "checkpoints"


def test_values_on_a_device_wait(comet: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "on_a_device", lambda row: True)
    monkeypatch.setattr(services, "SECONDS", 1e12)
    seen: list[int] = []
    look = kit.Recorder(on_train_batch_end=lambda *_: seen.append(len(comet.made[0].rows())))
    kit.fit(kit.Net(), data(), data(), logger=CometLogger(), log_every_n_steps=1, callbacks=[look])
    assert seen == [0, 0, 0, 0]
    assert len(comet.made[0].rows()) == 5


def test_a_job_that_is_run_again_goes_on_in_its_experiment(comet: Package) -> None:
    def job(at: int | None, **arguments: Any) -> CometLogger:
        def fail() -> None:
            raise kit.Crash

        logger = CometLogger(**arguments)
        callbacks: list[Any] = [ModelCheckpoint(every_n_train_steps=2), *([] if at is None else [kit.at_batch(at, fail)])]
        try:
            kit.fit(
                kit.Net(), data(), data(), logger=logger, log_every_n_steps=1, enable_checkpointing=True, callbacks=callbacks,
                ckpt_path="last",
            )  # fmt: skip
        except kit.Crash:
            assert at is not None
        return logger

    first, second = job(3), job(None)
    assert first.version == second.version == "key0"
    assert [each.key for each in comet.made] == ["key0", "key1", "key0"]
    assert comet.made[1].calls[-1][0] == "end"  # it was begun, and is not used
    assert len(comet.made[2].rows()) == 3
    assert job(None, experiment_key="mine").version == "mine"


def test_copies(comet: Package) -> None:
    logger = CometLogger()
    for copied in (copy.deepcopy(logger), pickle.loads(pickle.dumps(logger))):
        assert copied.version is None
        assert copied.experiment.get_key() == "key0"


def test_on_another_process(comet: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "_rank", 1)
    logger = CometLogger()
    logger.log_metrics({"a": 1})
    logger.log_hyperparams({"a": 1})
    logger.log_graph(torch.nn.Linear(1, 1))
    logger.experiment.log_image("a")
    logger.leyden_start(lambda own: "the first one's")
    logger.finalize("success")
    assert logger.leyden_position() == {}
    comet.start.assert_not_called()
