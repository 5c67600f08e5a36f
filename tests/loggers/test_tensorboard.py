"""TensorBoardLogger: real event files, read back."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import threading
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit import QUIET, same, weights
from torch import nn

import leyden
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import InvalidOption, InvalidType, LeydenWarning, MissingPackage
from leyden.loggers import TensorBoardLogger
from leyden.loggers.tensorboard import ROWS
from leyden.testing import BoringModel


def scalars(logger: TensorBoardLogger, below: str = "") -> dict[str, list[tuple[int, float]]]:
    """All scalars of the logger's folder, by name: step and value."""
    return {name: [(event.step, event.value) for event in reading(logger, below).Scalars(name)] for name in tags(logger, below)}


def tags(logger: TensorBoardLogger, below: str = "") -> list[str]:
    names: list[str] = reading(logger, below).Tags()["scalars"]
    return names


def reading(logger: TensorBoardLogger, below: str = "") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(os.path.join(logger.log_dir, below))
        accumulator.Reload()
    return accumulator


def test_metrics_can_be_read_back(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": torch.tensor(0.5), "epoch": 0}, step=3)
    logger.log_metrics({"loss": 0.25, "flag": True}, step=7)
    logger.finalize("success")
    assert scalars(logger) == {"loss": [(3, 0.5), (7, 0.25)], "epoch": [(3, 0.0)], "flag": [(7, 1.0)]}


def test_rows_without_a_step_are_counted_and_a_prefix_stands_before(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, prefix="run")
    logger.log_metrics({"a": 1})
    logger.log_metrics({"a": 2})
    logger.finalize("success")
    assert scalars(logger) == {"run-a": [(0, 1.0), (1, 2.0)]}


def test_a_dict_is_one_chart_with_several_lines(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"both": {"x": 1, "y": torch.tensor(2)}}, step=3)
    logger.finalize("success")
    assert scalars(logger, "both_x") == {"both": [(3, 1.0)]}
    assert scalars(logger, "both_y") == {"both": [(3, 2.0)]}


def test_nothing_is_created_before_something_is_written(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path / "logs", name="mine", sub_dir="sub")
    assert (logger.name, logger.version, logger.sub_dir) == ("mine", 0, "sub")
    assert logger.log_dir == str(tmp_path / "logs/mine/version_0/sub")
    assert logger.root_dir == str(tmp_path / "logs/mine")
    assert logger.save_dir == str(tmp_path / "logs")
    logger.save()
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [None, "one"])
def test_checkpoints_stand_in_the_run_s_folder_and_not_in_the_sub_dir(tmp_path: Path, version: str | None) -> None:
    """As in Lightning, whose runs are found again so."""
    logger = TensorBoardLogger(tmp_path, name="mine", version=version, sub_dir="a/b")
    trainer = leyden.Trainer(**{**QUIET, "logger": logger, "enable_checkpointing": True}, max_steps=1, limit_val_batches=0)
    trainer.fit(BoringModel())
    run = tmp_path / "mine" / (version or "version_0")
    assert Path(trainer.checkpoint_callback.best_model_path).parent == run / "checkpoints"
    assert logger.log_dir == str(run / "a/b")
    assert {path.parent for path in run.rglob("*.tfevents.*")} <= {run / "a/b"}


def test_the_experiment_is_a_summary_writer_with_the_arguments_given(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, filename_suffix=".mine")
    logger.experiment.add_text("note", "hello", 1)
    logger.finalize("success")
    assert [name for name in os.listdir(logger.log_dir) if name.endswith(".mine")]
    assert "note/text_summary" in reading(logger).Tags()["tensors"]


def test_rows_wait_on_their_device_and_a_step_writes_nothing(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.leyden_start()
    for step in range(ROWS - 1):
        logger.log_metrics({"a": torch.tensor(step)}, step)
    assert os.listdir(logger.log_dir) == []
    logger.log_metrics({"a": 0}, ROWS)
    assert len(os.listdir(logger.log_dir)) == 1
    logger.finalize("success")
    assert len(scalars(logger)["a"]) == ROWS


def test_no_thread_is_left_and_no_random_number_drawn(tmp_path: Path) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    threads = threading.active_count()
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1, "b": {"c": 2}}, 0)
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("failed")
    assert threading.active_count() == threads
    assert states[0] == random.getstate()
    assert states[1] == np.random.get_state()[1].tolist()
    assert torch.equal(states[2], torch.get_rng_state())


def test_logging_goes_on_after_finalize(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    for step in range(3):
        logger.log_metrics({"a": step}, step)
        logger.finalize("success")
    assert sorted(scalars(logger)["a"]) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_hyperparameters_come_with_a_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams(Namespace(lr=0.1, act=nn.ReLU, deep={"a": [1, 2], "b": None}))
    logger.log_hyperparams({"more": "x"})
    logger.finalize("success")
    assert scalars(logger) == {"hp_metric": [(0, -1.0)]}
    found = reading(logger).summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"more" in found
    assert (Path(logger.log_dir) / "hparams.yaml").read_text().startswith("lr: 0.1\nact: \"<class 'torch.nn")
    assert logger.hparams["more"] == "x"


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"hp/acc": 0.5}, {"hp/acc": [(2, 0.5)]}),
        (0.25, {"hp_metric": [(2, 0.25)]}),
        ({}, {}),
    ],
)
def test_metrics_to_compare_runs_by(tmp_path: Path, metrics: Any, expected: Any) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1}, metrics, step=2)
    logger.finalize("success")
    assert (scalars(logger) if expected else expected) == expected


def test_what_runs_are_compared_by_comes_before_what_is_logged_later(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"hp/acc": 0.25}, step=0)
    logger.log_hyperparams({"lr": 0.1}, {"hp/acc": 0.5}, step=1)
    logger.log_metrics({"hp/acc": 0.75}, step=2)  # TensorBoard shows the last one beside the hyper-parameters
    logger.finalize("success")
    assert scalars(logger) == {"hp/acc": [(0, 0.25), (1, 0.5), (2, 0.75)]}


def test_no_default_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    events, *written = sorted(os.listdir(logger.log_dir))
    assert (events.startswith("events.out.tfevents."), written) == (True, ["hparams.yaml", "meta_tags.csv"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
        self.example_input_array: Any = torch.ones(2, 3)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layers(batch) + torch.rand(())  # type: ignore[no-any-return]  # a Tensor


def test_a_graph_is_drawn_and_nothing_changes(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    net = Net()
    net.layers[2].eval()
    before = weights(net)
    state = torch.get_rng_state()
    logger.log_graph(net)
    logger.log_graph(net, torch.ones(1, 3))
    logger.finalize("success")
    assert reading(logger).Tags()["graph"]
    assert torch.equal(state, torch.get_rng_state())
    assert [module.training for module in net.modules()] == [True, True, True, True, False]
    assert same(before, weights(net))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_graph_needs_an_example(tmp_path: Path) -> None:
    net = Net()
    net.example_input_array = None
    with pytest.warns(LeydenWarning, match="set example_input_array on the module"):
        TensorBoardLogger(tmp_path, log_graph=True).log_graph(net)
    TensorBoardLogger(tmp_path).log_graph(net)
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"TensorBoardLogger needs the package 'tensorboard'.*leyden\[tensorboard\]"):
        TensorBoardLogger(tmp_path)


def test_a_place_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidOption, match="a folder that can be written"):
        TensorBoardLogger(tmp_path / "file").leyden_start()


@pytest.mark.parametrize("value", [torch.ones(2), "text", None, [1], object(), 1j, torch.tensor(1j), np.ones(2), b"1"])
def test_a_value_that_is_no_number_is_named(tmp_path: Path, value: Any) -> None:
    logger = TensorBoardLogger(tmp_path)
    for row in ({"a": value}, {"a": {"b": value}}):
        with pytest.raises(InvalidType, match=r"metrics\['a'\]=.* cannot be used: expected"):
            logger.log_metrics(row, 0)
    logger.log_metrics({"a": 1}, 0)
    logger.finalize("success")
    assert scalars(logger) == {"a": [(0, 1.0)]}


def test_a_file_that_vanished_is_made_again_and_said(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1}, 0)
    logger.save()
    shutil.rmtree(logger.log_dir)
    logger.log_metrics({"a": 2}, 1)
    with pytest.warns(LeydenWarning, match="is gone while the run goes on"):
        logger.save()
    logger.finalize("success")
    assert scalars(logger) == {"a": [(1, 2.0)]}


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "_rank", 1)
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.leyden_start(lambda mine: 5)
    logger.log_metrics({"a": 1})
    logger.log_hyperparams({"a": 1})
    logger.log_graph(Net())
    logger.experiment.add_text("a", "b")
    logger.finalize("success")
    assert logger.version == 5
    assert logger.leyden_position() == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", [None, 0])
def test_a_resumed_run_reads_like_an_uninterrupted_one(tmp_path: Path, version: int | None) -> None:
    def log(logger: TensorBoardLogger, steps: range) -> None:
        for step in steps:
            logger.log_metrics({"a": step / 7, "d": {"x": step}}, step)

    whole = TensorBoardLogger(tmp_path, name="whole")
    whole.log_hyperparams({"lr": 0.1})
    log(whole, range(6))
    whole.finalize("success")

    killed = TensorBoardLogger(tmp_path, name="cut", version=version)
    killed.log_hyperparams({"lr": 0.1})
    log(killed, range(3))
    position = killed.leyden_position()
    log(killed, range(3, 5))
    killed.finalize("failed")

    for last in (4, 6):  # killed twice, the second time before another checkpoint
        again = TensorBoardLogger(tmp_path, name="cut", version=version)
        again.leyden_start()
        again.log_hyperparams({"lr": 0.1})
        again.save()
        again.leyden_resume(position)
        log(again, range(3, last))
        again.finalize("success")
    assert len(os.listdir(tmp_path / "cut")) == (3 if version is None else 1)
    # within one second, the order of files by name is not the order of time
    assert {name: sorted(rows) for name, rows in scalars(again).items()} == scalars(whole)
    assert sorted(scalars(again, "d_x")["d"]) == scalars(whole, "d_x")["d"]


@pytest.mark.parametrize("version", [None, "mine"])
def test_a_resumed_run_goes_on_from_a_resumed_run(tmp_path: Path, version: str | None) -> None:
    position: dict[str, Any] = {}
    for step in range(3):
        logger = TensorBoardLogger(tmp_path, version=version)
        logger.leyden_resume(position)
        logger.log_metrics({"a": step}, step)
        position = logger.leyden_position()
        logger.log_metrics({"a": 99}, 99)
        logger.finalize("failed")
    logger = TensorBoardLogger(tmp_path, version=version)
    logger.leyden_resume(position)
    assert sorted(scalars(logger)["a"]) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_events_that_came_after_an_early_checkpoint_go(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path, version=0)
    position = first.leyden_position()
    first.log_metrics({"a": 1}, 0)
    first.finalize("failed")
    other = TensorBoardLogger(tmp_path)
    other.leyden_resume(position)
    assert not os.path.exists(other.log_dir)
    again = TensorBoardLogger(tmp_path, version=0)
    again.leyden_resume(position)
    again.log_metrics({"a": 2}, 0)
    again.finalize("success")
    assert scalars(again) == {"a": [(0, 2.0)]}


def test_a_run_that_moved_is_found(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path / "here")
    first.log_metrics({"a": 1}, 0)
    position = first.leyden_position()
    first.finalize("failed")
    elsewhere = TensorBoardLogger(tmp_path / "new")
    elsewhere.leyden_resume(position)
    assert scalars(elsewhere) == {"a": [(0, 1.0)]}
    (tmp_path / "here").rename(tmp_path / "there")
    moved = TensorBoardLogger(tmp_path / "there")
    moved.leyden_resume(position)
    assert scalars(moved) == {"a": [(0, 1.0)]}


def test_hyperparameters_that_the_first_run_lacked_are_kept(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path, version=0)
    first.log_metrics({"a": 1}, 0)
    position = first.leyden_position()
    first.finalize("success")
    again = TensorBoardLogger(tmp_path, version=0)
    again.log_hyperparams({"lr": 0.1})
    again.save()
    again.leyden_resume(position)
    again.finalize("success")
    assert scalars(again) == {"a": [(0, 1.0)], "hp_metric": [(0, -1.0)]}


def test_events_that_are_gone_are_said(tmp_path: Path) -> None:
    first = TensorBoardLogger(tmp_path)
    first.log_metrics({"a": 1}, 0)
    position = first.leyden_position()
    first.finalize("success")
    (name,) = position["files"]
    os.truncate(Path(first.log_dir) / name, 10)
    again = TensorBoardLogger(tmp_path)
    with pytest.warns(LeydenWarning, match=r"version_0 does not hold the \d+ bytes of events .* goes on without them"):
        again.leyden_resume(position)
    again.log_metrics({"a": 2}, 1)
    again.finalize("success")
    assert scalars(again) == {"a": [(1, 2.0)]}


def test_a_folder_that_holds_events_keeps_them(tmp_path: Path) -> None:
    first, other = TensorBoardLogger(tmp_path), TensorBoardLogger(tmp_path, version="other")
    for logger in (first, other):
        logger.log_metrics({logger.log_dir[-1]: 1}, 0)
    position = first.leyden_position()
    other.finalize("success")
    first.finalize("success")
    again = TensorBoardLogger(tmp_path, version="other")
    again.leyden_resume(position)
    assert tags(again) == ["r"]


def test_a_value_that_is_no_number_costs_no_other_row(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    with pytest.raises(InvalidType, match=r"metrics\['a'\]='high' cannot be used"):
        logger.log_metrics({"a": "high"}, 1)
    logger.log_metrics({"a": np.full(1, 3.0)}, 2)
    logger.finalize("success")
    assert scalars(logger)["a"] == [(0, 1.0), (2, 3.0)]


def test_the_hyperparameters_file_is_there_once_something_was_written(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert (Path(logger.log_dir) / "hparams.yaml").read_text() == "{}\n"


def test_a_full_disk_is_said_and_rows_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 0.0}, 0)
    logger.save()
    file = logger.experiment._get_file_writer().event_writer._general_file_writer  # type: ignore[no-untyped-call]
    whole = file.write

    def half(content: bytes) -> None:
        whole(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LeydenWarning)
        patch.setattr(file, "write", half)
        for step in range(1, 4 * ROWS):
            logger.log_metrics({"a": float(step)}, step)
    said = [str(each.message) for each in caught]
    assert len(said) <= 3, "an attempt for each row"
    assert f"cannot be written ([Errno 28] No space left on device); {ROWS} rows wait" in said[0]
    logger.finalize("success")
    assert [step for step, _ in scalars(logger)["a"]] == list(range(4 * ROWS))


def test_a_full_disk_at_the_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = TensorBoardLogger(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.warns(LeydenWarning, match="cannot be written .*No space left"):
            logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    assert Path(logger.log_dir, "hparams.yaml").read_text() == "lr: 0.1\n"
