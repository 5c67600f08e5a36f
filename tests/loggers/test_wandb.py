"""WandbLogger: one real run, offline, read back from its file; what goes to the server, on a stand-in."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import shutil
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import kit
import numpy as np
import pytest
import torch
from services import csv_rows, wandb_history, wandb_records, wandb_rows

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, LeydenWarning, MissingPackage, UnknownName
from leyden.loggers import CSVLogger, Logger, WandbLogger, services
from leyden.loggers.wandb_files import Journal, earlier_folders, set_aside, take_up
from leyden.plugins.io import ShardedCheckpointIO


class Showing(kit.Net):
    """Logs all that there is to log."""

    def __init__(self, lr: float = 0.1, kind: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()

    def on_train_epoch_end(self) -> None:
        logger, step = self.loggers[0], self.global_step
        assert isinstance(logger, WandbLogger)
        logger.log_text("words", columns=["said", "number"], data=[["hello", 1]])
        logger.log_image("pictures", [torch.zeros(3, 4, 4), np.ones((4, 4))], step=step, caption=["dark", "light"])
        logger.experiment.log({"own": 7})


def data() -> Any:
    return kit.DataLoader(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)), batch_size=3, shuffle=True)


def seed() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


def finish() -> None:
    """End the run, and wait until its file is complete."""
    sys.modules["wandb"].run.finish()
    sys.modules["wandb"].teardown()


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package, quiet, which keeps its own files in a folder that goes."""
    own = str(tmp_path_factory.mktemp("own"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, own)
        patch.setenv("WANDB_SILENT", "true")
        yield
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()


class Run:
    """A run of two epochs, and what has come of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        seed()
        alone = Showing(0.2)
        alone.on_train_epoch_end = lambda: None  # type: ignore[method-assign]  # there is no logger
        kit.fit(alone, data(), data(), max_epochs=2)
        self.alone, self.drawn_alone = kit.weights(alone), drawn()

        self.logger = WandbLogger(
            "shown", folder, project="p", mode="offline", log_model="all", prefix="my", add_file_policy="immutable", tags=["t"]
        )
        seed()
        module = Showing(0.2)
        self.logger.watch(module, log="all", log_freq=1)
        started = time.monotonic()
        self.trainer = kit.fit(
            module, data(), data(), max_epochs=2, logger=[self.logger, CSVLogger(folder, prefix="my")], log_every_n_steps=1,
            enable_checkpointing=True, callbacks=[ModelCheckpoint(monitor="val_loss", save_last=False)],
        )  # fmt: skip
        self.seconds = time.monotonic() - started
        self.weights, self.drawn = kit.weights(module), drawn()
        self.copied = copy.deepcopy(self.logger)
        self.loaded = pickle.loads(pickle.dumps(self.logger))
        self.ids = {str(each.experiment.id) for each in (self.logger, self.copied, self.loaded)}
        finish()
        self.history = wandb_history(folder)


@pytest.fixture(scope="module")
def run(packages: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


class TestARealRun:
    def test_it_changes_no_bit_and_draws_no_number(self, run: Run) -> None:
        assert kit.same(run.alone, run.weights)
        assert run.drawn == run.drawn_alone

    def test_it_has_the_rows_of_the_table(self, run: Run) -> None:
        rows = [row for row in run.history if "my-epoch" in row]
        plain = {tuple(sorted((name, value) for name, value in row.items() if name.startswith("my-"))) for row in rows}
        table = csv_rows(Path(str(run.trainer.loggers[1].log_dir)) / "metrics.csv")
        assert plain == {tuple(each for each in row if each[0] != "step") for row in table}
        assert [row["trainer/global_step"] for row in rows] == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7]

    def test_the_step_is_the_axis(self, run: Run) -> None:
        assert [(each.name, each.glob_name, each.step_metric) for each in wandb_records(run.folder, "metric")] == [
            ("trainer/global_step", "", ""),
            ("", "*", "trainer/global_step"),
        ]

    def test_hyper_parameters_are_its_config(self, run: Run) -> None:
        updates = [item for record in wandb_records(run.folder, "config") for item in record.update]
        assert {item.key: json.loads(item.value_json) for item in updates}["lr"] == 0.2

    def test_name_version_and_folders(self, run: Run) -> None:
        (record,) = wandb_records(run.folder, "run")
        assert (record.display_name, record.project, list(record.tags)) == ("shown", "p", ["t"])
        assert (run.logger.name, run.logger.version, run.logger.save_dir) == ("p", record.run_id, str(run.folder))
        assert run.logger.log_dir is None
        assert run.ids == {record.run_id}
        assert Path(run.trainer.checkpoint_callback.best_model_path).parent == run.folder / "p" / record.run_id / "checkpoints"  # type: ignore[union-attr]

    def test_text_and_images(self, run: Run) -> None:
        words = [row["my-words"] for row in run.history if "my-words" in row]
        assert [(each["_type"], each["ncols"], each["nrows"]) for each in words] == [("table-file", 2, 1)] * 2
        pictures = [row for row in run.history if "my-pictures" in row]
        assert [row["trainer/global_step"] for row in pictures] == [4, 8]
        assert [(row["my-pictures"]["count"], row["my-pictures"]["captions"]) for row in pictures] == [(2, ["dark", "light"])] * 2

    def test_what_the_user_logs_stands_in_its_place(self, run: Run) -> None:
        order = ["own" if "own" in row else row["trainer/global_step"] for row in run.history if "own" in row or "my-loss" in row]
        assert order == [0, 1, 2, 3, "own", 4, 5, 6, 7, "own"]

    def test_watching_gradients(self, run: Run) -> None:
        names = {name for row in run.history for name in row}
        assert {"gradients/model.0.weight", "gradients/model.2.bias"} <= names

    def test_checkpoints_are_artifacts(self, run: Run) -> None:
        sent = wandb_records(run.folder, "artifact")
        name = f"model-{run.logger.version}"
        assert sent
        assert {(each.name, each.type) for each in sent if each.type == "model"} == {(name, "model")}
        models = [each for each in sent if each.type == "model"]
        assert all(set(each.aliases) == {"latest", "best"} for each in models)
        metadata = json.loads(models[-1].metadata)
        assert metadata["original_filename"] == os.path.basename(run.trainer.checkpoint_callback.best_model_path)  # type: ignore[union-attr]
        assert metadata["ModelCheckpoint"]["monitor"] == "val_loss"
        assert metadata["score"] == float(run.trainer.checkpoint_callback.best_model_score)  # type: ignore[union-attr,arg-type]

    def test_a_word_that_nobody_takes(self, packages: None) -> None:
        with pytest.raises(UnknownName, match=r"unknown argument 'projekt'\. Did you mean 'project'"):
            WandbLogger(projekt="p")
        with pytest.raises(UnknownName, match=r"'taggs'\. Did you mean 'tags'"):
            WandbLogger(taggs=["p"])


class TestWhatAKilledJobLeft:
    @pytest.fixture
    def left(self, run: Run, tmp_path: Path) -> Path:
        """A copy of the folder that the run has left."""
        (folder,) = run.folder.glob("wandb/offline-run-*")
        shutil.copytree(folder, tmp_path / "wandb" / folder.name)
        return tmp_path / "wandb" / folder.name

    def test_rows_after_the_checkpoint_go(self, left: Path, tmp_path: Path) -> None:
        before = wandb_history(tmp_path)
        rows = sum(row["_step"] < 6 and "my-epoch" in row for row in before)
        assert take_up([str(left)], rows, 6) == []
        assert wandb_history(tmp_path) == [row for row in before if row["_step"] < 6]
        assert take_up([str(left)], rows, 6) == []  # and a second time nothing more

    def test_rows_that_were_not_written_any_more_are_told(self, left: Path, tmp_path: Path) -> None:
        before = wandb_history(tmp_path)
        (path,) = left.glob("*.wandb")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])  # in the middle of a record
        kept = wandb_history(tmp_path)
        assert 0 < len(kept) < len(before)
        lost = take_up([str(left)], 10, len(before))
        rows = [row for row in before if "my-epoch" in row]
        assert [row["trainer/global_step"] for _, row in lost] == [row["trainer/global_step"] for row in rows if row not in kept]

    def test_nothing_of_it_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "offline-run-1-a").mkdir()
        assert take_up([str(tmp_path / "offline-run-1-a")], 3, 3) == []

    def test_a_journal_goes_on_and_a_broken_line_does_not_count(self, tmp_path: Path) -> None:
        first = Journal(str(tmp_path))
        first.note({"a": 1.0, "b": float("nan")}, 5.0)
        first.note({"a": "a table"}, 5.0)
        first.note({"a": 2.0}, 6.0)
        first.sync()
        first.close()
        path = tmp_path / "leyden-rows.jsonl"
        path.write_bytes(path.read_bytes() + b'[2, 7.0, {"a"')
        assert Journal(str(tmp_path)).number == 2
        lost = take_up([str(tmp_path)], 2, 2)
        assert [(at, row["a"]) for at, row in lost] == [(5.0, 1.0), (6.0, 2.0)]

    def test_folders_of_the_run_and_of_no_other(self, tmp_path: Path) -> None:
        for name in ("offline-run-1-a", "offline-run-2-a", "offline-run-3-b", "run-1-a"):
            (tmp_path / name).mkdir()
        assert earlier_folders(str(tmp_path / "offline-run-2-a"), "a") == [str(tmp_path / "offline-run-1-a")]
        set_aside([str(tmp_path / "offline-run-1-a")])
        assert (tmp_path / "abandoned-run-1-a").is_dir()


# -- on a stand-in


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> mock.MagicMock:
    """In place of the package: it has no run, and begins one of the id ``made``."""
    package = mock.MagicMock(run=None)
    package.init.return_value.id = "made"
    package.init.return_value.offline = False
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return package


def logged(package: mock.MagicMock) -> list[dict[str, Any]]:
    return [call.args[0] for call in package.init.return_value.log.call_args_list]


class TestArguments:
    def test_as_they_go_to_init(self, wandb: mock.MagicMock) -> None:
        logger = WandbLogger(
            "n", "s", "v", False, "d", "i", True, "p", False, None, "", None, "mutable", group="g", mode="online"
        )
        assert (logger.version, logger.name, logger.save_dir) == ("v", "p", "s")
        wandb.init.assert_not_called()
        assert logger.experiment is wandb.init.return_value
        wandb.init.assert_called_once_with(
            name="n", project="p", dir="s", id="v", resume="allow", anonymous="allow", group="g", mode="online"
        )
        assert logger.version == "made"

    def test_defaults(self, wandb: mock.MagicMock) -> None:
        _ = WandbLogger().experiment
        wandb.init.assert_called_once_with(name=None, project="lightning_logs", dir=".", id=None, resume="allow", anonymous=None)

    def test_second_names(self, wandb: mock.MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_PROJECT", "of the environment")
        logger = WandbLogger(save_dir=None, dir=Path("d"), id="i", offline=True)
        assert (logger.version, logger.name, logger.save_dir) == ("i", "of the environment", "d")
        _ = logger.experiment
        assert wandb.init.call_args.kwargs["mode"] == "offline"

    def test_a_run_that_is_given(self, wandb: mock.MagicMock) -> None:
        mine = mock.MagicMock(id="mine")
        logger = WandbLogger(experiment=mine)
        logger.log_metrics({"a": 1}, 2)
        mine.log.assert_called_once_with({"a": 1, "trainer/global_step": 2})
        assert logger.version == "mine"
        wandb.init.assert_not_called()

    def test_a_run_in_progress_is_taken(self, wandb: mock.MagicMock) -> None:
        wandb.run = mock.MagicMock(id="other")
        logger = WandbLogger()
        with pytest.warns(UserWarning, match=r"already in progress.*wandb\.finish\(\) first"):
            assert logger.experiment is wandb.run
        assert WandbLogger(id="other").experiment is wandb.run  # the one that was asked for

    def test_prefix_step_and_tensorboard(self, wandb: mock.MagicMock) -> None:
        WandbLogger(prefix="x").log_metrics({"a": torch.tensor(0.5)}, 3)
        WandbLogger().log_metrics({"a": 1.0})
        WandbLogger(sync_tensorboard=True).log_metrics({"a": 2.0}, 4)
        assert logged(wandb) == [{"x-a": 0.5, "trainer/global_step": 3}, {"a": 1.0}, {"a": 2.0}]
        assert wandb.init.return_value.define_metric.call_args_list[-1] == mock.call("*", step_metric="global_step")

    @pytest.mark.parametrize(
        ("given", "error", "said"),
        [
            ({"log_model": "best"}, InvalidOption, r"log_model='best' cannot be used: expected True \(at the end\)"),
            ({"log_model": 1}, InvalidType, "log_model=1"),
            ({"add_file_policy": "copy"}, InvalidOption, 'add_file_policy=\'copy\' .*"mutable" or "immutable"'),
            ({"save_dir": 5}, InvalidType, "save_dir=5 cannot be used: expected a path"),
            ({"offline": True, "log_model": True}, ConflictingOptions, "offline=True and log_model=True.*Leave one of them out"),
        ],
    )
    def test_bad_ones(self, given: dict[str, Any], error: type[Exception], said: str, wandb: mock.MagicMock) -> None:
        with pytest.raises(error, match=said):
            WandbLogger(**given)

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(MissingPackage, match=r"needs the package 'wandb'.*pip install 'leyden\[wandb\]'") as caught:
            WandbLogger()
        assert isinstance(caught.value, ModuleNotFoundError)


class TestMedia:
    def test_tables_and_text(self, wandb: mock.MagicMock) -> None:
        logger = WandbLogger()
        logger.log_table("t", ["a"], [[1]], step=3)
        logger.log_text(key="d", dataframe="frame")
        assert wandb.Table.call_args_list == [
            mock.call(columns=["a"], data=[[1]], dataframe=None),
            mock.call(columns=None, data=None, dataframe="frame"),
        ]
        assert logged(wandb) == [{"t": wandb.Table.return_value, "trainer/global_step": 3}, {"d": wandb.Table.return_value}]

    @pytest.mark.parametrize("kind", ["image", "audio", "video"])
    def test_what_is_seen_and_heard(self, kind: str, wandb: mock.MagicMock) -> None:
        make, log = getattr(wandb, kind.capitalize()), getattr(WandbLogger(), f"log_{kind}")
        log("k", ["one", "two"], 5, caption=["a", "b"])
        assert make.call_args_list == [mock.call("one", caption="a"), mock.call("two", caption="b")]
        assert logged(wandb) == [{"k": [make.return_value] * 2, "trainer/global_step": 5}]
        with pytest.raises(InvalidType, match=rf"{kind}s='one' cannot be used: expected a list") as caught:
            log("k", "one")
        assert isinstance(caught.value, TypeError)
        with pytest.raises(InvalidOption, match=rf"caption=\['a'\] .* a list of 2, one for each of {kind}s"):
            log("k", ["one", "two"], caption=["a"])

    def test_watch(self, wandb: mock.MagicMock) -> None:
        logger = WandbLogger()
        logger.watch("module")  # type: ignore[arg-type]  # whatever is given is passed on
        logger.watch("module", "all", 7, False)  # type: ignore[arg-type]  # as above
        assert wandb.init.return_value.watch.call_args_list == [
            mock.call("module", log="gradients", log_freq=100, log_graph=True),
            mock.call("module", log="all", log_freq=7, log_graph=False),
        ]


class TestArtifacts:
    def test_downloaded_without_a_run(self, wandb: mock.MagicMock) -> None:
        folder = WandbLogger.download_artifact("a:best", Path("to"), "model")
        wandb.Api.return_value.artifact.assert_called_once_with("a:best", type="model")
        wandb.Api.return_value.artifact.return_value.download.assert_called_once_with(root="to")
        assert folder is wandb.Api.return_value.artifact.return_value.download.return_value

    def test_downloaded_by_a_run(self, wandb: mock.MagicMock) -> None:
        wandb.run = mock.MagicMock()
        assert WandbLogger.download_artifact("a:best") is wandb.run.use_artifact.return_value.download.return_value
        wandb.run.use_artifact.assert_called_once_with("a:best")
        WandbLogger.download_artifact("a:best", use_artifact=False)
        wandb.Api.return_value.artifact.assert_called_once_with("a:best", type=None)

    def test_used(self, wandb: mock.MagicMock) -> None:
        used = WandbLogger().use_artifact("a:best", "model")
        wandb.init.return_value.use_artifact.assert_called_once_with("a:best", type="model")
        assert used is wandb.init.return_value.use_artifact.return_value

    @pytest.mark.parametrize(
        ("log_model", "save_top_k", "during", "after"), [("all", 1, 3, 3), (True, 1, 0, 1), (True, -1, 3, 3), (False, 1, 0, 0)]
    )
    def test_checkpoints(self, log_model: Any, save_top_k: int, during: int, after: int, wandb: mock.MagicMock) -> None:
        logger = WandbLogger(log_model=log_model, checkpoint_name="mine")
        sent: list[int] = []
        note = kit.Recorder(on_train_end=lambda *_: sent.append(wandb.init.return_value.log_artifact.call_count))
        writer = ModelCheckpoint(save_top_k=save_top_k, monitor="epoch" if save_top_k == 1 else None, mode="max", save_last=False)
        kit.fit(kit.Net(), data(), data(), max_epochs=3, logger=logger, callbacks=[note, writer], enable_checkpointing=True)
        assert sent == [during]
        calls = wandb.init.return_value.log_artifact.call_args_list
        assert len(calls) == after
        if after:
            assert calls[-1].kwargs == {"aliases": ["latest", "best"]}
            assert wandb.Artifact.call_args.kwargs["name"] == "mine"
            add = wandb.Artifact.return_value.add_file.call_args
            assert add == mock.call(writer.best_model_path, name="model.ckpt", policy="mutable")

    def test_a_checkpoint_that_is_a_folder(self, wandb: mock.MagicMock) -> None:
        options: dict[str, Any] = {"logger": WandbLogger(log_model="all"), "plugins": [ShardedCheckpointIO()]}
        run = kit.fit(kit.Net(), data(), data(), enable_checkpointing=True, **options)
        added = wandb.Artifact.return_value.add_dir.call_args_list
        assert mock.call(run.checkpoint_callback.best_model_path, name="model.ckpt", policy="mutable") in added
        wandb.Artifact.return_value.add_file.assert_not_called()

    def test_none_at_the_end_of_a_run_that_failed(self, wandb: mock.MagicMock) -> None:
        def fail(*_: Any) -> None:
            raise kit.Crash

        late = kit.Recorder(on_train_end=fail)
        with pytest.raises(kit.Crash):
            kit.fit(kit.Net(), data(), data(), logger=WandbLogger(log_model=True), callbacks=[late], enable_checkpointing=True)
        wandb.init.return_value.log_artifact.assert_not_called()


class TestInARun:
    def test_numbers_wait(self, wandb: mock.MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "SECONDS", 1e12)
        seen: list[int] = []

        def look(trainer: Any, *_: Any) -> None:
            seen.append(len(logged(wandb)))
            if trainer.global_step == 4:
                assert trainer.logger.experiment is not None
                seen.append(len(logged(wandb)))

        kit.fit(
            kit.Net(),
            data(),
            data(),
            logger=WandbLogger(),
            log_every_n_steps=1,
            callbacks=[kit.Recorder(on_train_batch_end=look)],
        )
        assert seen == [0, 0, 0, 0, 3]  # the fourth row comes after this hook
        assert [row["trainer/global_step"] for row in logged(wandb)] == [0, 1, 2, 3, 3]
        assert all(isinstance(value, float) for row in logged(wandb) for name, value in row.items() if "loss" in name)

    def test_what_is_no_number_is_written_in_its_place(self, wandb: mock.MagicMock) -> None:
        def show(trainer: Any, *_: Any) -> None:
            trainer.logger.log_metrics({"drawn": "picture"}, trainer.global_step)

        look = kit.Recorder(on_train_batch_end=show)
        kit.fit(kit.Net(), data(), data(), logger=WandbLogger(), log_every_n_steps=1, callbacks=[look])
        assert [next(iter(row)) for row in logged(wandb)] == ["drawn", "loss"] * 4 + ["val_loss"]

    def test_a_run_that_was_finished_on_the_way(self, wandb: mock.MagicMock) -> None:
        wandb.init.return_value.log.side_effect = RuntimeError("the run is finished")
        with pytest.warns(LeydenWarning, match="Rows cannot be written to W&B: the run is finished"):
            kit.fit(kit.Net(), data(), data(), logger=WandbLogger(), log_every_n_steps=1)

    def test_rows_are_there_after_an_exception(self, wandb: mock.MagicMock) -> None:
        def fail() -> None:
            raise kit.Crash

        with pytest.raises(kit.Crash):
            kit.fit(kit.Net(), data(), data(), logger=WandbLogger(), log_every_n_steps=1, callbacks=[kit.at_batch(2, fail)])
        assert len(logged(wandb)) == 2

    def test_hyper_parameters(self, wandb: mock.MagicMock) -> None:
        def draw() -> None:
            raise AssertionError("a hyper-parameter was called")

        given = {
            "lr": 1,
            "layer": torch.nn.Linear,
            "draw": draw,
            "net": torch.nn.Identity(),
            "deep": {"a": 1},
            "t": torch.ones(1),
        }
        WandbLogger().log_hyperparams(given)
        wandb.init.return_value.config.update.assert_called_once_with(
            {"lr": 1, "layer": "Linear", "draw": "draw", "net": "Identity", "deep": {"a": 1}, "t": "tensor([1.])"},
            allow_val_change=True,
        )

    def test_a_folder_that_cannot_be_written(self, wandb: mock.MagicMock, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InvalidOption, match=r"save_dir='.*file/w' cannot be used: expected a folder that can be written"):
            kit.fit(kit.Net(), data(), data(), logger=WandbLogger(save_dir=tmp_path / "file" / "w"))
        (tmp_path / "wandb").touch()
        with pytest.raises(InvalidOption, match=r"save_dir='.*/wandb' cannot be used"):
            kit.fit(kit.Net(), data(), data(), logger=WandbLogger(save_dir=tmp_path))
        wandb.init.assert_not_called()

    def test_a_run_that_was_ended_before(self, wandb: mock.MagicMock) -> None:
        wandb.init.return_value._is_finished = True
        with pytest.raises(ConflictingOptions, match=r"run made was ended by finish\(\).* id='made' it goes on"):
            kit.fit(kit.Net(), data(), data(), logger=WandbLogger())

    def test_on_another_process(self, wandb: mock.MagicMock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rank_zero_only, "_rank", 1)
        logger = WandbLogger(log_model="all")
        logger.log_metrics({"a": 1})
        logger.log_hyperparams({"a": 1})
        logger.log_image("a", [1])
        logger.experiment.log({"a": 1})
        logger.watch(torch.nn.Linear(1, 1))
        logger.leyden_start(lambda own: "the first one's")
        logger.finalize("success")
        assert logger.version == "the first one's"
        wandb.init.assert_not_called()

    def test_a_copy_finds_the_run_again(self, wandb: mock.MagicMock) -> None:
        logger = WandbLogger()
        assert copy.deepcopy(logger).version is None  # and begins none
        wandb.init.assert_not_called()
        wandb.init.return_value = types.SimpleNamespace(id="made", name="n", _attach_id="attach", log=mock.Mock())
        _ = logger.experiment
        again = pickle.loads(pickle.dumps(logger))
        assert again.version == "made"
        assert again.experiment is wandb._attach.return_value
        wandb._attach.assert_called_once_with("attach")

    def test_another_runs_position_is_passed_by(self, wandb: mock.MagicMock) -> None:
        logger = WandbLogger(project="p")
        for position in ({}, {"rows": 5}, {"wandb": "a", "project": "q"}):
            logger.leyden_go_on(position)
            assert logger.version is None
        logger.leyden_go_on({"wandb": "a", "project": "p"})
        assert logger.version == "a"
        given = WandbLogger(project="p", id="mine")
        given.leyden_go_on({"wandb": "a", "project": "p"})
        assert given.version == "mine"


def test_a_run_whose_files_are_gone_is_told(run: Run, packages: None, tmp_path: Path) -> None:
    logger = WandbLogger(project="p", save_dir=tmp_path, offline=True, id="again")
    assert isinstance(logger, Logger)
    logger.leyden_start()
    with pytest.warns(LeydenWarning, match="does not hold what the run again had written"):
        logger.leyden_resume({"wandb": "again", "project": "p", "at_step": 3, "journaled": 3})
    logger.log_metrics({"a": 1.0}, 9)
    assert logger.leyden_position() == {"wandb": "again", "project": "p", "at_step": 4, "journaled": 4}
    logger.finalize("success")
    finish()
    assert [(row["_step"], row["a"]) for row in wandb_history(tmp_path)] == [(3, 1.0)]


def test_a_run_that_begins_again_sets_aside_what_there_was(run: Run, packages: None, tmp_path: Path) -> None:
    old = tmp_path / "wandb" / "offline-run-20200101_000000-again"
    old.mkdir(parents=True)
    kit.fit(
        kit.Net(), data(), data(), logger=WandbLogger(project="p", save_dir=tmp_path, offline=True, id="again"), ckpt_path="last",
        log_every_n_steps=1,
    )  # fmt: skip
    finish()
    assert old.with_name("abandoned-run-20200101_000000-again").is_dir()
    assert sum(wandb_rows(tmp_path).values()) == 5
    assert leyden.loggers.WandbLogger is WandbLogger
