"""CSVLogger: real files, read back."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kit import rows

from leyden.callbacks.progress.results import print_results
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import InvalidOption, InvalidType, LeydenWarning
from leyden.loggers.csv import CSVLogger


def test_rows_stand_under_sorted_columns(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"zz": 1.5, "epoch": 0, "aa": torch.tensor(3)}, step=4)
    logger.log_metrics({"Bval": True, "aa": float("nan")}, step=9)
    logger.save()
    assert (tmp_path / "lightning_logs/version_0/metrics.csv").read_text() == (
        "Bval,aa,epoch,step,zz\n,3,0,4,1.5\nTrue,nan,,9,\n"
    )
    assert logger.experiment.metrics_keys == ["Bval", "aa", "epoch", "step", "zz"]


def test_nothing_is_created_before_something_is_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs", name="mine")
    assert (logger.name, logger.version) == ("mine", 0)
    assert logger.save_dir == str(tmp_path / "logs")
    assert logger.root_dir == str(tmp_path / "logs/mine")
    assert logger.log_dir == str(tmp_path / "logs/mine/version_0")
    logger.save()
    logger.finalize("success")
    assert logger.leyden_position() == {}
    assert list(tmp_path.iterdir()) == []
    logger.leyden_start()
    assert os.listdir(tmp_path / "logs/mine") == ["version_0"]


@pytest.mark.parametrize(
    ("name", "version", "folder"),
    [
        ("nm", None, "nm/version_0"),
        ("nm", 3, "nm/version_3"),
        ("nm", "abc", "nm/abc"),
        (None, None, "version_0"),
        ("", 5, "version_5"),
        ("nm", "", "nm"),
    ],
)
def test_folders(tmp_path: Path, name: str | None, version: Any, folder: str) -> None:
    logger = CSVLogger(tmp_path, name=name, version=version)
    logger.log_metrics({"a": 1})
    logger.save()
    assert (tmp_path / folder / "metrics.csv").is_file()
    assert logger.name == (name or "")


def test_the_next_free_version_is_taken_by_one_only(tmp_path: Path) -> None:
    (tmp_path / "lightning_logs/version_7").mkdir(parents=True)
    (tmp_path / "lightning_logs/version_x").mkdir()
    first, second = CSVLogger(tmp_path), CSVLogger(tmp_path)
    first.leyden_start()
    second.leyden_start()
    assert (first.version, second.version) == (8, 9)


def test_a_row_waits_on_its_device_until_it_is_due(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=3)
    logger.leyden_start()
    value = torch.tensor(0.25, requires_grad=True)
    logger.log_metrics({"a": value}, 0)
    logger.log_metrics({"a": value}, 1)
    assert os.listdir(logger.log_dir) == []
    assert logger.experiment._waiting[0][0]["a"] is value
    assert logger.experiment.metrics == [{"a": 0.25, "step": 0}, {"a": 0.25, "step": 1}]
    logger.log_metrics({"a": value}, 2)
    assert rows(logger.log_dir) == [{"a": "0.25", "step": str(step)} for step in range(3)]


def test_rows_are_due_by_steps_too(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=100)
    logger.leyden_start()
    logger.log_metrics({"a": 1}, 49)
    assert os.listdir(logger.log_dir) == []
    logger.log_metrics({"a": 1}, 100)
    assert [row["step"] for row in rows(logger.log_dir)] == ["49", "100"]


def test_rows_are_read_in_one_transfer_a_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = CSVLogger(tmp_path)
    for step in range(10):
        logger.log_metrics({"a": torch.tensor(step), "b": torch.tensor([0.5]), "c": torch.tensor(0.5, dtype=torch.float64)}, step)
    transfers = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.dtype) or tolist(tensor))
    logger.save()
    assert sorted(map(str, transfers)) == ["torch.float32", "torch.float64", "torch.int64"]
    assert rows(logger.log_dir)[9] == {"a": "9", "b": "0.5", "c": "0.5", "step": "9"}


def test_no_row_is_written_anew_but_for_a_new_column(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    path = Path(logger.log_dir) / "metrics.csv"
    logger.log_metrics({"a": 1, "b": 2}, 0)
    logger.save()
    node = path.stat().st_ino
    logger.log_metrics({"b": 3}, 1)
    logger.save()
    assert path.stat().st_ino == node
    logger.log_metrics({"0": "text, with comma"}, 2)
    logger.save()
    assert path.stat().st_ino != node
    assert path.read_text() == '0,a,b,step\n,1,2,0\n,,3,1\n"text, with comma",,,2\n'
    assert [entry.name for entry in path.parent.iterdir()] == ["metrics.csv"]


def test_rows_without_a_step_are_counted(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    for value in (1, 2):
        logger.log_metrics({"a": value})
        logger.save()
    logger.log_metrics({"a": 3})
    logger.save()
    assert [row["step"] for row in rows(logger.log_dir)] == ["0", "1", "2"]


def test_an_existing_folder_is_gone_on_with(tmp_path: Path) -> None:
    for value in (1, 2):
        logger = CSVLogger(tmp_path, version="mine")
        logger.log_metrics({"a": value}, value)
        logger.finalize("success")
    assert [row["a"] for row in rows(logger.log_dir)] == ["1", "2"]


def test_two_loggers_in_one_folder_keep_each_others_rows(tmp_path: Path) -> None:
    first, second = CSVLogger(tmp_path, version=0), CSVLogger(tmp_path, version=0)
    first.log_metrics({"a": 1}, 0)
    second.log_metrics({"b": 2}, 1)
    first.save()
    second.save()
    first.log_metrics({"a": 3}, 2)
    first.save()
    assert rows(first.log_dir) == [{"a": "1", "step": "0"}, {"b": "2", "step": "1"}, {"a": "3", "step": "2"}]


def test_half_a_line_left_by_a_killed_process_is_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/metrics.csv").write_text("a,step\n1,0\n2")
    logger = CSVLogger(tmp_path, name="", version="mine")
    logger.log_metrics({"a": 3}, 2)
    logger.save()
    assert rows(logger.log_dir) == [{"a": "1", "step": "0"}, {"a": "2"}, {"a": "3", "step": "2"}]


def test_a_prefix_stands_before_metrics(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, prefix="run")
    logger.log_metrics({"a": 1}, 5)
    logger.save()
    assert rows(logger.log_dir) == [{"run-a": "1", "step": "5"}]


@dataclass
class Net:
    width: int = 3


def test_hyperparameters_are_plain_yaml(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams({"lr": 1e-05, "name": "adam w", "n": None, "yes": "no", "size": [1, {"a": True}], "empty": {}})
    logger.log_hyperparams(argparse.Namespace(act=torch.relu, big=float("inf"), net=Net(), dtype=torch.float16, where=tmp_path))
    logger.log_hyperparams()
    logger.finalize("success")
    text = (Path(logger.log_dir) / "hparams.yaml").read_text()
    assert text.startswith(
        'lr: 1.0e-05\nname: adam w\n"n": null\n"yes": "no"\nsize:\n  - 1\n  -\n    a: true\nempty: {}\nact: "<built-in'
    )
    assert "big: .inf\nnet:\n  width: 3\ndtype: torch.float16\n" in text
    assert logger.experiment.hparams["lr"] == 1e-05
    with pytest.raises(InvalidType, match="params=3 cannot be used: expected a dict, a Namespace or a dataclass"):
        logger.log_hyperparams(3)  # type: ignore[arg-type]  # this is the point


def test_hyperparameters_come_back_from_yaml(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    given = {
        "lr": 1e-05, "big": 1e300, "flag": False, "text": "a: b # c", "line": "two\nlines", "on": "off", "n": "12",
        "list": [[1, 2], []], "deep": {"x": {"y": [{"z": "ü"}]}}, "none": None, "-": "-", "space ": " x", "1e3": "1e3",
        "~": "~", "date": "2020-01-01",
    }  # fmt: skip
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams(given)
    logger.save()
    assert yaml.safe_load((Path(logger.log_dir) / "hparams.yaml").read_text()) == given


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"save_dir": 3}, InvalidType, "save_dir=3 cannot be used: expected a path or an URL"),
        ({"name": 3}, InvalidType, "name=3"),
        ({"version": 1.5}, InvalidType, "version=1.5"),
        ({"version": True}, InvalidType, "version=True"),
        ({"flush_logs_every_n_steps": 0}, InvalidOption, "a number of steps >= 1"),
        ({"flush_logs_every_n_steps": "5"}, InvalidType, "a number of steps >= 1"),
    ],
)
def test_arguments_are_checked(tmp_path: Path, arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        CSVLogger(**{"save_dir": tmp_path, **arguments})


def test_tensorboards_methods_are_not_there_and_the_error_says_where_they_are(tmp_path: Path) -> None:
    experiment = CSVLogger(tmp_path).experiment
    assert not hasattr(experiment, "add_histogram")
    with pytest.raises(AttributeError, match=r"no attribute 'add_image': .*CSVLogger.*TensorBoardLogger\('\.'\)"):
        experiment.add_image("a", torch.zeros(1, 2, 2), 0)
    with pytest.raises(AttributeError, match=r"^'ExperimentWriter' object has no attribute 'other'$"):
        experiment.other  # noqa: B018  # the reading is what is tested


def test_a_place_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    logger = CSVLogger(tmp_path / "file")
    with pytest.raises(InvalidOption, match=r"lightning_logs/version_0: Not a directory\. Give another save_dir, or"):
        logger.leyden_start()
    with pytest.raises(InvalidOption, match="a folder that can be written"):
        logger.log_metrics({"a": 1})


def test_a_read_only_folder_is_named_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # whoever runs the tests may be allowed everything
    with pytest.raises(InvalidOption, match="permission denied"):
        CSVLogger(tmp_path).leyden_start()


def test_a_value_that_is_no_number_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1}, 0)
    with pytest.raises(InvalidType, match=r"metrics\['b'\]='tensor of shape \(3,\)' cannot be used: expected one number"):
        logger.log_metrics({"b": torch.ones(3)}, 1)
    logger.log_metrics({"a": 2}, 2)
    logger.save()
    assert [row["a"] for row in rows(logger.log_dir)] == ["1", "2"]


def test_a_full_disk_is_said_and_rows_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = CSVLogger(tmp_path)
    logger.leyden_start()
    logger.log_metrics({"a": 1}, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.warns(LeydenWarning, match=r"metrics\.csv cannot be written \(.*No space left.*\); 1 rows wait"):
            logger.save()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(1, 800):
                logger.log_metrics({"a": 1}, step)
    assert 1 <= len(caught) <= 4, "an attempt for each row"
    assert os.listdir(logger.log_dir) == []
    logger.save()
    assert len(rows(logger.log_dir)) == 800


def test_a_folder_that_vanished_is_made_again_and_said(tmp_path: Path) -> None:
    import shutil

    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1}, 0)
    logger.save()
    shutil.rmtree(tmp_path / "lightning_logs")
    logger.log_metrics({"a": 2}, 1)
    with pytest.warns(LeydenWarning, match=r"metrics\.csv is gone while the run goes on: 1 rows are lost"):
        logger.save()
    assert rows(logger.log_dir) == [{"a": "2", "step": "1"}]


def test_other_processes_write_nothing_and_share_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lightning_logs/version_4").mkdir(parents=True)
    monkeypatch.setattr(rank_zero_only, "_rank", 1)
    logger = CSVLogger(tmp_path)
    logger.leyden_start(lambda mine: 2)
    logger.log_metrics({"a": 1})
    logger.log_hyperparams({"a": 1})
    logger.save()
    assert logger.version == 2
    assert logger.leyden_position() == {}
    logger.leyden_resume({"version": 0})
    assert os.listdir(tmp_path / "lightning_logs") == ["version_4"]


def test_an_url(tmp_path: Path) -> None:
    import fsspec

    logger = CSVLogger("memory://logs/here", name="x")
    for step in range(3):
        logger.log_metrics({f"m{step % 2}": step}, step)
        logger.save()
    logger.log_hyperparams({"a": 1})
    logger.finalize("success")
    with fsspec.open("memory://logs/here/x/version_0/metrics.csv", "r") as file:
        assert file.read() == "m0,m1,step\n0,,0\n,1,1\n2,,2\n"
    again = CSVLogger("memory://logs/here", name="x")
    assert again.version == 1
    again.leyden_resume(logger.leyden_position())
    with fsspec.open("memory://logs/here/x/version_1/metrics.csv", "r") as file:
        assert file.read() == "m0,m1,step\n0,,0\n,1,1\n2,,2\n"


def test_a_step_costs_few_calls(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.leyden_start()
    value = torch.tensor(1.0)
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event == "call" else None)
    logger.log_metrics({"a": value, "b": value}, 3)
    sys.setprofile(None)
    assert len(calls) <= 2


@pytest.mark.parametrize("version", [None, "mine"])
def test_a_resumed_run_writes_the_same_file(tmp_path: Path, version: str | None) -> None:
    whole = CSVLogger(tmp_path, name="whole")
    for step in range(6):
        whole.log_metrics({"a": step / 7}, step)
    whole.save()
    cut = CSVLogger(tmp_path, name="cut", version=version)
    for step in range(3):
        cut.log_metrics({"a": step / 7}, step)
    position = cut.leyden_position()
    for step in range(3, 5):
        cut.log_metrics({"a": step / 7}, step)
    cut.save()
    again = CSVLogger(tmp_path, name="cut", version=version)
    again.leyden_start()
    again.log_hyperparams({"lr": 1})
    again.save()
    again.leyden_resume(position)
    for step in range(3, 6):
        again.log_metrics({"a": step / 7}, step)
    again.finalize("success")
    assert rows(again.log_dir) == rows(whole.log_dir)
    assert "lr: 1" in (Path(again.log_dir) / "hparams.yaml").read_text()
    if version is None:  # the cut run keeps what it has
        assert [row["step"] for row in rows(cut.log_dir)] == ["0", "1", "2", "3", "4"]
        assert again.version == 1


def test_rows_that_came_after_an_early_checkpoint_go(tmp_path: Path) -> None:
    first = CSVLogger(tmp_path, version=0)
    first.leyden_start()
    position = first.leyden_position()
    first.log_metrics({"a": 1}, 0)
    first.save()
    again = CSVLogger(tmp_path, version=0)
    again.leyden_resume(position)
    again.log_metrics({"a": 2}, 0)
    again.save()
    assert rows(again.log_dir) == [{"a": "2", "step": "0"}]
    other = CSVLogger(tmp_path)
    other.leyden_resume(position)
    other.save()
    assert os.listdir(other.log_dir) == []


@given(
    before=st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(width=32), min_size=1), max_size=6),
    lost=st.lists(st.dictionaries(st.sampled_from("cdefg"), st.integers(), min_size=1), max_size=4),
    after=st.lists(st.dictionaries(st.sampled_from("abefg"), st.booleans(), min_size=1), max_size=4),
    every=st.integers(1, 5),
    version=st.sampled_from([None, 3]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_is_doubled_or_lost_by_a_resume(
    tmp_path_factory: pytest.TempPathFactory, before: Any, lost: Any, after: Any, every: int, version: int | None
) -> None:
    root = tmp_path_factory.mktemp("resume")
    killed = CSVLogger(root, name="killed", version=version, flush_logs_every_n_steps=every)
    for step, row in enumerate(before):
        killed.log_metrics(row, step)
    killed.leyden_start()
    position = killed.leyden_position()
    for step, row in enumerate(lost):
        killed.log_metrics(row, len(before) + step)
    killed.save()
    resumed = CSVLogger(root, name="killed", version=version, flush_logs_every_n_steps=every)
    resumed.leyden_resume(position)
    whole = CSVLogger(root, name="whole", flush_logs_every_n_steps=every)
    for step, row in enumerate(before):
        whole.log_metrics(row, step)
    for step, row in enumerate(after):
        resumed.log_metrics(row, len(before) + step)
        whole.log_metrics(row, len(before) + step)
    for logger in (resumed, whole):
        logger.leyden_start()
        logger.save()
    paths = [Path(logger.log_dir) / "metrics.csv" for logger in (resumed, whole)]
    assert [path.read_text() if path.exists() else "" for path in paths[:1]] == [
        path.read_text() if path.exists() else "" for path in paths[1:]
    ]


@pytest.mark.parametrize("version", [None, 0])
def test_rows_that_are_gone_are_said(tmp_path: Path, version: int | None) -> None:
    first = CSVLogger(tmp_path)
    first.log_metrics({"a": 1}, 0)
    position = first.leyden_position()
    path = Path(first.log_dir) / "metrics.csv"
    path.write_text("a,step\n5,0\n6,1\n")
    again = CSVLogger(tmp_path, version=version)
    with pytest.warns(LeydenWarning, match=r"version_0 does not hold the 1 rows .* goes on without them"):
        again.leyden_resume(position)
    again.log_metrics({"a": 2}, 1)
    again.save()
    assert path.read_text().startswith("a,step\n5,0\n6,1\n")
    assert rows(again.log_dir)[-1] == {"a": "2", "step": "1"}


def test_a_folder_that_holds_rows_keeps_them(tmp_path: Path) -> None:
    first, other = CSVLogger(tmp_path), CSVLogger(tmp_path, version="other")
    first.log_metrics({"a": 1}, 0)
    other.log_metrics({"b": 1}, 0)
    other.save()
    other.leyden_resume(first.leyden_position())
    assert rows(other.log_dir) == [{"b": "1", "step": "0"}]


def test_a_run_that_moved_is_found(tmp_path: Path) -> None:
    first = CSVLogger(tmp_path / "here")
    first.log_metrics({"a": 1}, 0)
    position = first.leyden_position()
    elsewhere = CSVLogger(tmp_path / "new")
    elsewhere.leyden_resume(position)
    assert rows(elsewhere.log_dir) == [{"a": "1", "step": "0"}]
    (tmp_path / "here").rename(tmp_path / "there")
    moved = CSVLogger(tmp_path / "there")
    moved.leyden_resume(position)
    assert rows(moved.log_dir) == [{"a": "1", "step": "0"}]


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\r\nb", "\r", 'a"b', "a,b"])
def test_a_name_that_holds_what_ends_a_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It stands in one cell, also of a run that goes on; the bar and the printed table show an escape."""
    logger = CSVLogger(tmp_path, version=0)
    logger.log_metrics({name: 1.0}, step=0)
    logger.save()
    position = logger.leyden_position()
    logger.log_metrics({name: 2.0}, step=1)
    logger.finalize("failed")
    again = CSVLogger(tmp_path, version=0)
    again.leyden_resume(position)
    again.log_metrics({name: 3.0, "later": 1.0}, step=1)
    again.finalize("success")
    assert [row[name] for row in rows(again.log_dir)] == ["1.0", "3.0"]
    print_results([{name: 1.0}], "validate")
    shown = capsys.readouterr().out
    assert "\r" not in shown
    assert len(shown.splitlines()) == 5
