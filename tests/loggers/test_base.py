"""The base of all loggers, its stand-ins, and the package's face."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import leyden.loggers
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import UnknownName
from leyden.loggers import Logger
from leyden.loggers.base import DummyExperiment, DummyLogger, rank_zero_experiment
from leyden.loggers.logger import merge_dicts


class ListLogger(Logger):
    """The smallest logger of a user's own."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.saved = 0

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> int:
        return 7

    @property
    @rank_zero_experiment
    def experiment(self) -> list[Any]:
        return self.rows

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.rows.append((dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.rows.append(params)

    def save(self) -> None:
        self.saved += 1


def test_a_logger_needs_four_methods_and_has_the_rest() -> None:
    logger = ListLogger()
    assert (logger.root_dir, logger.log_dir, logger.save_dir, logger.group_separator) == (None, None, None, "/")
    assert not logger.leyden_takes_tensors
    logger.leyden_start()
    logger.log_graph(None)  # type: ignore[arg-type]  # not looked at
    logger.after_save_checkpoint(None)
    assert logger.leyden_position() == {}
    logger.leyden_resume({})
    logger.finalize("success")
    assert logger.saved == 1


def test_a_logger_without_them_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="log_metrics"):
        Logger()  # type: ignore[abstract]  # this is the point


def test_the_experiment_of_other_processes_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = ListLogger()
    assert logger.experiment is logger.rows
    monkeypatch.setattr(rank_zero_only, "_rank", 1)
    elsewhere: Any = logger.experiment
    assert isinstance(elsewhere, DummyExperiment)
    elsewhere.add_image("name", 3)
    elsewhere["key"] = 1
    with elsewhere.anything.at[0].all() as inner:
        assert isinstance(inner, DummyExperiment)


def test_a_dummy_logger_takes_everything_and_can_be_copied() -> None:
    logger = DummyLogger()
    logger.log_metrics({"a": 1}, 2)
    logger.log_metrics("1", 2, three="three")
    logger.log_hyperparams({"a": 1})
    logger.log_hyperparams("1", 2, three="three")
    logger.experiment.add_scalar("a", 1)
    logger.watch(None)
    assert isinstance(logger[0], DummyExperiment)
    assert (logger.name, logger.version, logger.save_dir) == ("", "", None)
    assert isinstance(pickle.loads(pickle.dumps(copy.deepcopy(logger))), DummyLogger)


def test_the_face_is_complete_and_knows_near_names() -> None:
    assert leyden.loggers.__all__ == sorted(leyden.loggers.__all__)
    for name in leyden.loggers.__all__:
        assert getattr(leyden.loggers, name).__name__ == name
    assert set(leyden.loggers.__all__) <= set(dir(leyden.loggers))
    with pytest.raises(UnknownName, match="Did you mean 'CSVLogger'"):
        leyden.loggers.CSVLoger  # noqa: B018


def test_dicts_are_merged_name_by_name() -> None:
    first, second = {"a": 1.5, "b": 2.0, "deep": {"x": 1, "y": 3}}, {"a": 0.5, "c": 1, "deep": {"x": 2, "z": {"w": 5}}}
    assert merge_dicts([first, second]) == {"a": 1.0, "b": 2.0, "c": 1, "deep": {"x": 1.5, "y": 3, "z": {"w": 5}}}
    functions = {"a": max, "deep": {"x": sum}}
    assert merge_dicts([first, second], functions, min) == {"a": 1.5, "b": 2.0, "c": 1, "deep": {"x": 3, "y": 3, "z": {"w": 5}}}
    assert merge_dicts([{"a": None}, {"a": 2}, {"b": None}], default_func=min) == {"a": 2, "b": None}
    assert merge_dicts([]) == {}


def test_a_dummy_experiment_does_nothing_on_demand() -> None:
    DummyExperiment().nop(1, word=2)
