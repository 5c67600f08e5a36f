"""ckpt_path="last" and "best": the newest or best good checkpoint of the run's folder, in the same process or another."""

from __future__ import annotations

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Crash, Net, at_batch, same
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.callbacks import ModelCheckpoint, Timer
from leyden.checkpoint.durable import Disk
from leyden.checkpoint.files import TorchCheckpointIO
from leyden.errors import (
    CheckpointDamaged,
    CheckpointForeign,
    CheckpointMismatch,
    CheckpointMissing,
    CheckpointWriteFailed,
    LeydenWarning,
)
from leyden.loggers import CSVLogger
from leyden.testing import BoringModel, Recorder, random_batches


class Samples(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.full((4,), index / 8) + 0.1 * torch.randn(4)


def crashes(at: int) -> Recorder:
    """Raises in the training batch ``at``, counted over epochs."""

    def crash() -> None:
        raise Crash

    return at_batch(at, crash)


def trainer(*callbacks: Any, **options: Any) -> leyden.Trainer:
    """One that logs and saves where the defaults do, into a table that can be read."""
    logger = CSVLogger(options.get("default_root_dir", "."), name="lightning_logs")
    defaults = {"max_epochs": 3, "log_every_n_steps": 1, "logger": logger, "enable_checkpointing": None}
    return kit.trainer(*callbacks, **{**defaults, **options})


def fit(run: leyden.Trainer, ckpt_path: Any = "last") -> tuple[Net, Any]:
    leyden.seed_everything(1)
    net = Net()
    return net, run.fit(
        net, DataLoader(Samples(), batch_size=2, shuffle=True), DataLoader(Samples(), batch_size=4), ckpt_path=ckpt_path
    )


def damage(path: str | Path) -> None:
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 0xFF
    Path(path).write_bytes(bytes(data))


def older(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


# -- the same command, over and over


def test_without_a_checkpoint_training_starts_from_the_beginning_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    _, result = fit(trainer())
    assert "there is no checkpoint yet, so training starts from the beginning" in capsys.readouterr().out
    assert (result.status, result.epochs) == ("finished", 3)


def test_the_rerun_goes_on_in_the_same_folder(capsys: pytest.CaptureFixture[str], own_folder: Path) -> None:
    with pytest.raises(Crash):
        fit(trainer(crashes(6)))
    before = Path("lightning_logs/version_0/metrics.csv").read_text()
    run = trainer()
    net, result = fit(run)
    assert "training goes on from" in capsys.readouterr().out
    assert os.listdir("lightning_logs") == ["version_0"]
    assert run.logger is not None
    assert run.logger.version == 0
    assert Path("lightning_logs/version_0/metrics.csv").read_text() != before
    (own_folder / "once").mkdir()
    os.chdir(own_folder / "once")
    once, expected = fit(trainer(), None)
    assert same(net, once)
    assert result.history == expected.history
    rows = Path("lightning_logs/version_0/metrics.csv").read_text()
    assert Path(own_folder, "lightning_logs/version_0/metrics.csv").read_text() == rows
    kept = sorted(os.listdir("lightning_logs/version_0/checkpoints"))
    assert sorted(os.listdir(own_folder / "lightning_logs/version_0/checkpoints")) == kept


def test_the_newest_run_is_the_one_that_goes_on() -> None:
    fit(trainer(max_epochs=1), None)
    with pytest.raises(Crash):
        fit(trainer(crashes(5)), None)
    assert sorted(os.listdir("lightning_logs")) == ["version_0", "version_1"]
    run = trainer()
    fit(run)
    assert run.logger is not None
    assert run.logger.version == 1


def test_a_finished_run_says_so_and_trains_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = fit(trainer())
    rows = Path("lightning_logs/version_0/metrics.csv").read_bytes()
    files = sorted(os.listdir("lightning_logs/version_0/checkpoints"))
    recorder = Recorder()
    again, result = fit(trainer(recorder))
    assert "is finished" in capsys.readouterr().out
    assert "on_train_batch_start" not in recorder.names
    assert (result.status, result.epochs, result.steps) == ("finished", 3, 12)
    assert len(result.history) == 3
    assert same(first, again)
    assert Path("lightning_logs/version_0/metrics.csv").read_bytes() == rows
    assert sorted(os.listdir("lightning_logs/version_0/checkpoints")) == files


def test_a_stop_that_was_wished_ends_that_run_only(capsys: pytest.CaptureFixture[str]) -> None:
    stops = Recorder(on_train_epoch_end=lambda run, *_: run.stop(because="enough") if run.current_epoch == 1 else None)
    _, result = fit(trainer(stops))
    assert (result.status, result.reason, result.epochs) == ("stopped", "enough", 2)
    net, again = fit(trainer())
    assert "is finished" not in capsys.readouterr().out
    assert (again.status, again.reason, again.epochs) == ("finished", None, 3)
    os.mkdir("once")
    os.chdir("once")
    once, _ = fit(trainer(), None)
    assert same(net, once)


def test_more_epochs_go_on() -> None:
    fit(trainer(max_epochs=1))
    net, result = fit(trainer(max_epochs=3))
    assert (result.status, result.epochs, result.steps, len(result.history)) == ("finished", 3, 12, 3)
    os.mkdir("once")
    os.chdir("once")
    once, _ = fit(trainer(max_epochs=3), None)
    assert same(net, once)


def test_more_steps_go_on_inside_an_epoch() -> None:
    fit(trainer(max_epochs=-1, max_steps=6))
    net, result = fit(trainer(max_epochs=-1, max_steps=11))
    assert result.steps == 11
    os.mkdir("once")
    os.chdir("once")
    once, _ = fit(trainer(max_epochs=-1, max_steps=11), None)
    assert same(net, once)


def test_what_the_end_of_a_cut_epoch_draws_is_drawn_at_its_true_end() -> None:
    """Its hooks hear of an end twice, at the lower limit and at the higher one: the first leaves no trace in the second."""

    def run(steps: int) -> leyden.Trainer:
        return trainer(Recorder(on_train_epoch_end=lambda *_: torch.rand(3)), max_epochs=-1, max_steps=steps)

    fit(run(6))
    net, result = fit(run(11))
    assert result.steps == 11
    os.mkdir("once")
    os.chdir("once")
    once, _ = fit(run(11), None)
    assert same(net, once)


class Counts(leyden.Callback):
    """Counts the ends of batches, by a function that no file holds; saves at the fourth where it is told to."""

    def __init__(self, name: str, saves_to: str | None = None) -> None:
        self.name, self.saves_to, self.ends = name, saves_to, 0
        self.more: Any = lambda count: count + 1

    @property
    def state_key(self) -> str:
        return self.name

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        self.ends = self.more(self.ends)
        if self.saves_to is not None and self.ends == 4:
            trainer.save_checkpoint(self.saves_to)

    def state_dict(self) -> dict[str, Any]:
        return {"ends": self.ends, "more": self.more}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ends, self.more = state_dict["ends"], state_dict["more"]


@pytest.mark.filterwarnings("ignore:Some values cannot be written")
def test_who_was_told_of_a_cut_hook_is_known_by_name() -> None:
    """Saved while the second of three is told of a batch's end: of that end only those hear who have not, wherever they stand."""
    fit(trainer(Counts("a"), Counts("b", "cut.ckpt"), Counts("c"), max_epochs=1), None)
    c, a, new, b = (Counts(name) for name in ("c", "a", "new", "b"))
    with pytest.warns(LeydenWarning, match=r"cut\.ckpt could not hold Counts\.more, which only pickle could write"):
        fit(trainer(c, a, new, b, max_epochs=2), "cut.ckpt")
    assert {each.name: each.ends for each in (a, b, c, new)} == {"a": 8, "b": 8, "c": 8, "new": 5}


@pytest.mark.parametrize("where", ["dirpath", "logger", "no logger", "root"])
def test_the_run_s_folder(where: str, own_folder: Path) -> None:
    def run(*more: Any) -> leyden.Trainer:
        if where == "dirpath":
            return trainer(ModelCheckpoint("kept", save_last=True), *more)
        if where == "logger":
            return trainer(*more, logger=CSVLogger("logs", name="mine", version="one"))
        if where == "no logger":
            return trainer(*more, logger=False)
        return trainer(*more, default_root_dir="root")

    with pytest.raises(Crash):
        fit(run(crashes(6)))
    again = run()
    _, result = fit(again)
    assert again.ckpt_path is not None
    expected = {"dirpath": "kept", "logger": "logs/mine/one", "no logger": "checkpoints", "root": "root"}[where]
    assert again.ckpt_path.startswith(str(own_folder / expected))
    assert result.epochs == 3


def test_last_finds_no_checkpoint_of_another_folder() -> None:
    fit(trainer(ModelCheckpoint("first", save_last=True), max_epochs=1))
    run = trainer(ModelCheckpoint("second", save_last=True), max_epochs=1)
    fit(run)
    assert run.ckpt_path is None


def test_last_for_other_verbs_needs_a_checkpoint() -> None:
    with pytest.raises(CheckpointMissing, match="ckpt_path='last' was asked for, and there is no checkpoint"):
        trainer().validate(Net(), DataLoader(Samples()), ckpt_path="last")
    net, _ = fit(trainer(max_epochs=1))
    other = Net()
    trainer().validate(other, DataLoader(Samples()), ckpt_path="last")
    assert same(net, other)


def test_the_sanity_check_and_a_validation_that_ended_do_not_run_again() -> None:
    with pytest.raises(Crash):
        fit(trainer(crashes(4)))  # after the validation of the first epoch
    recorder = Recorder()
    fit(trainer(recorder))
    assert "on_sanity_check_start" not in recorder.names
    assert recorder.names.index("on_train_batch_start") < recorder.names.index("on_validation_start")


def test_a_path_that_was_set_counts_until_it_is_set_anew(tmp_path: Path) -> None:
    paths: list[Any] = []

    class Noting(BoringModel):
        def on_train_start(self) -> None:
            paths.append((self.trainer.ckpt_path, self.trainer.current_epoch))

        def on_test_start(self) -> None:
            paths.append(self.trainer.ckpt_path)

    file = str(tmp_path / "one.ckpt")
    kit.fit(Noting(), random_batches(1)).save_checkpoint(file)
    paths.clear()
    run, module = kit.trainer(max_epochs=2), Noting()
    run.ckpt_path = file
    run.fit(module, random_batches(1))
    run.test(module, random_batches(1))
    with pytest.warns(LeydenWarning, match="which is taken. The other is forgotten"):
        run.test(module, random_batches(1), ckpt_path=shutil.copy(file, tmp_path / "other.ckpt"))
    run.test(module, random_batches(1))
    assert paths == [(file, 1), file, str(tmp_path / "other.ckpt"), None]
    run.ckpt_path = file
    run.ckpt_path = None
    run.test(module, random_batches(1))
    assert paths[-1] is run.ckpt_path is None


class Tarred(ModelCheckpoint):
    FILE_EXTENSION = ".tar"


@pytest.mark.parametrize(
    "writer",
    [
        lambda: ModelCheckpoint("kept", filename="{epoch}/model"),
        lambda: ModelCheckpoint(filename="{epoch}/model"),
        lambda: Tarred("kept"),
        lambda: Tarred(),
        lambda: ModelCheckpoint(f"memory://{os.getcwd()}", save_last=True),
    ],
    ids=["subfolders", "subfolders of a logger", "another extension", "another extension in a logger's folder", "elsewhere"],
)
def test_last_finds_what_this_very_configuration_wrote(writer: Any) -> None:
    fit(trainer(writer(), max_epochs=1))
    run = trainer(writer(), max_epochs=2)
    _, result = fit(run)
    assert run.ckpt_path is not None
    assert result.steps == 8


def test_a_file_that_vanishes_between_listing_and_reading_is_passed_over() -> None:
    fit(trainer(ModelCheckpoint("kept", save_top_k=-1, filename="{epoch}"), max_epochs=2))

    class Vanishing(TorchCheckpointIO):
        def load_checkpoint(self, path: Any, *options: Any, **more: Any) -> dict[str, Any]:
            if "epoch=1" in path:
                os.remove(path)
            return super().load_checkpoint(path, *options, **more)

    run = trainer(ModelCheckpoint("kept", filename="{epoch}"), max_epochs=1, plugins=[Vanishing()])
    fit(run)
    assert run.ckpt_path == os.path.abspath("kept/epoch=0.ckpt")


def test_a_damaged_file_that_cannot_be_moved_aside_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    fit(trainer(ModelCheckpoint("kept", save_top_k=-1, filename="{epoch}"), max_epochs=2))
    damage("kept/epoch=1.ckpt")

    def refuse(path: str) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("leyden.checkpoint.store.quarantine", refuse)
    run = trainer(ModelCheckpoint("kept", filename="{epoch}"), max_epochs=1)
    with pytest.warns(LeydenWarning, match=r"epoch=1\.ckpt.*It could not be moved aside, and the next good checkpoint is used"):
        fit(run)
    assert run.ckpt_path == os.path.abspath("kept/epoch=0.ckpt")


# -- damaged files


def test_the_damaged_newest_is_set_aside_and_the_next_good_one_taken() -> None:
    def writer() -> ModelCheckpoint:
        return ModelCheckpoint("kept", every_n_epochs=1, save_top_k=-1, filename="{epoch}")

    once, _ = fit(trainer(writer()), None)
    for epoch in range(3):
        older(Path(f"kept/epoch={epoch}.ckpt"), 10 - epoch)
    damage("kept/epoch=2.ckpt")
    Path("kept/epoch=1.ckpt").write_bytes(Path("kept/epoch=1.ckpt").read_bytes()[:3000])
    older(Path("kept/epoch=2.ckpt"), 8)
    older(Path("kept/epoch=1.ckpt"), 9)
    with pytest.warns(LeydenWarning) as told:
        net, result = fit(trainer(writer()))
    texts = [str(each.message) for each in told if "It was moved to" in str(each.message)]
    assert len(texts) == 2
    assert "epoch=2.ckpt" in texts[0]
    assert "epoch=2.ckpt.damaged" in texts[0]
    assert "epoch=1.ckpt.damaged" in texts[1]
    assert same(net, once)
    assert result.epochs == 3
    assert {"epoch=2.ckpt.damaged", "epoch=1.ckpt.damaged", "epoch=0.ckpt", "epoch=2.ckpt"} <= set(os.listdir("kept"))


def test_where_all_are_damaged_training_starts_from_the_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    fit(trainer(ModelCheckpoint("kept"), max_epochs=1))
    for path in Path("kept").iterdir():
        damage(path)
    with pytest.warns(LeydenWarning, match="is not empty"), pytest.warns(LeydenWarning, match="It was moved to"):
        _, result = fit(trainer(ModelCheckpoint("kept"), max_epochs=1))
    assert "there is no checkpoint yet" in capsys.readouterr().out
    assert result.steps == 4


def test_a_damaged_best_gives_way_to_the_next_best() -> None:
    writer = ModelCheckpoint("kept", monitor="val_loss", save_top_k=3, filename="{epoch}")
    run = trainer(writer)
    net, _ = fit(run, None)
    damage(writer.best_model_path)
    ranked = sorted(writer.best_k_models, key=lambda path: float(writer.best_k_models[path]))
    with pytest.warns(LeydenWarning, match=r"checksum.*It was moved to .*\.damaged"):
        run.validate(net, DataLoader(Samples()), ckpt_path="best")
    assert run.ckpt_path == ranked[1]


def test_without_a_best_one_that_is_asked_for_is_missed() -> None:
    with pytest.raises(CheckpointMissing, match="ckpt_path='best' was asked for, and there is none"):
        fit(trainer(), "best")


def test_a_damaged_file_that_is_asked_for_by_name_is_refused(tmp_path: Path) -> None:
    fit(trainer(ModelCheckpoint("kept", filename="mine"), max_epochs=1))
    damage("kept/mine.ckpt")
    with pytest.raises(CheckpointDamaged, match=r"mine\.ckpt"):
        fit(trainer(), "kept/mine.ckpt")
    assert Path("kept/mine.ckpt").exists()


def test_a_missing_file_is_missed_with_the_nearest_name() -> None:
    fit(trainer(ModelCheckpoint("kept", filename="mine"), max_epochs=1))
    with pytest.raises(CheckpointMissing, match=r"There is no checkpoint at kept/mime\.ckpt\. Did you mean 'mine\.ckpt'"):
        fit(trainer(), "kept/mime.ckpt")


def test_what_is_no_checkpoint_is_passed_over_by_last_and_refused_by_name() -> None:
    fit(trainer(ModelCheckpoint("kept"), max_epochs=1))
    Path("kept/zzz.ckpt").write_bytes(b"a text, and long enough to be read as a file of any kind")
    run = trainer(ModelCheckpoint("kept"), max_epochs=1)
    fit(run)
    assert run.ckpt_path is not None
    assert run.ckpt_path.endswith("epoch=0-step=4.ckpt")
    with pytest.raises(CheckpointForeign):
        fit(trainer(), "kept/zzz.ckpt")


# -- files without a training state


def test_weights_only_files_hold_no_training_state_and_fit_refuses_them() -> None:
    run = trainer(max_epochs=1)
    net, _ = fit(run, None)
    run.save_checkpoint("weights.ckpt", weights_only=True)
    content = torch.load("weights.ckpt", weights_only=True)
    assert "state_dict" in content
    assert not {"optimizer_states", "lr_schedulers", "callbacks", "loops"} & set(content)
    assert os.path.getsize("weights.ckpt") < os.path.getsize(run.checkpoint_callback.last_model_path)
    with pytest.raises(CheckpointMismatch, match=r"holds weights only, and fit cannot continue from it.*load_from_checkpoint"):
        fit(trainer(), "weights.ckpt")
    other = Net()
    trainer().validate(other, DataLoader(Samples()), ckpt_path="weights.ckpt")
    assert same(net, other)
    assert same(net, Net.load_from_checkpoint("weights.ckpt"))


def test_last_passes_over_files_of_weights_only() -> None:
    run = trainer(ModelCheckpoint("kept", save_weights_only=True), max_epochs=1)
    fit(run)
    again = trainer(ModelCheckpoint("kept", save_weights_only=True), max_epochs=1)
    with pytest.warns(LeydenWarning, match="is not empty"):
        fit(again)
    assert again.ckpt_path is None


class Wider(Net):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2)


class Narrower(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4))


def test_load_from_checkpoint_says_what_was_missing_and_unexpected() -> None:
    run = trainer(max_epochs=1)
    net, _ = fit(run, None)
    run.save_checkpoint("whole.ckpt")
    with pytest.raises(RuntimeError, match="head"):
        Wider.load_from_checkpoint("whole.ckpt")
    with pytest.warns(UserWarning, match=r"(?s)head\.(weight|bias)"):
        wider = Wider.load_from_checkpoint("whole.ckpt", strict=False)
    assert same(net.model, wider.model)
    with pytest.warns(UserWarning, match=r"model\.2\.(weight|bias)"):
        narrower = Narrower.load_from_checkpoint("whole.ckpt", strict=False)
    assert torch.equal(narrower.model[0].weight, net.model[0].weight)


def test_a_module_that_does_not_fit_is_refused_with_what_to_do() -> None:
    fit(trainer(ModelCheckpoint("kept", filename="mine"), max_epochs=1))
    wider = Wider()
    with pytest.raises(CheckpointMismatch, match=r"(?s)do not fit Wider.*strict_loading"):
        trainer(max_epochs=2).fit(wider, DataLoader(Samples()), DataLoader(Samples()), ckpt_path="kept/mine.ckpt")


# -- trouble with the disk


class Failing(Disk):
    """Fails from the moment on at which it is told to."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def sync_file(self, file: Any) -> None:
        if self.error is not None:
            raise self.error
        super().sync_file(file)

    def open(self, path: str) -> Any:
        if isinstance(self.error, PermissionError):
            raise self.error
        return super().open(path)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied")], ids=["full", "permission"]
)
def test_a_disk_that_fails_leaves_the_previous_checkpoint_intact(error: OSError) -> None:
    disk = Failing()

    def begin_to_fail(run: Any, *_: Any) -> None:
        if run.current_epoch == 1:
            disk.error = error

    def run(*more: Any) -> leyden.Trainer:
        return trainer(ModelCheckpoint("kept", save_last=True), *more, plugins=[TorchCheckpointIO(disk)])

    with pytest.raises(
        CheckpointWriteFailed, match=rf"could not be written: {error.strerror}.*What stood there before is intact"
    ):
        fit(run(Recorder(on_train_epoch_start=begin_to_fail)))
    assert sorted(os.listdir("kept")) == ["epoch=0-step=4.ckpt", "last.ckpt"]
    disk.error = None
    net, result = fit(run())
    assert result.epochs == 3
    os.mkdir("once")
    os.chdir("once")
    once, _ = fit(trainer(), None)
    assert same(net, once)


def test_a_folder_that_is_deleted_while_the_run_goes_on_is_made_again_and_said() -> None:
    def delete(run: Any, *_: Any) -> None:
        if run.current_epoch == 1:
            shutil.rmtree("kept")

    with pytest.warns(LeydenWarning, match=r"The folder '.*kept' was deleted while the run went on"):
        _, result = fit(trainer(ModelCheckpoint("kept", save_last=True), Recorder(on_train_epoch_start=delete)))
    assert result.status == "finished"
    assert sorted(os.listdir("kept")) == ["epoch=2-step=12.ckpt", "last.ckpt"]


def test_leftovers_of_a_crash_go_at_the_next_start() -> None:
    fit(trainer(ModelCheckpoint("kept"), max_epochs=1))
    leftover = Path("kept/.last.ckpt.999999999.leyden-tmp")
    leftover.write_bytes(b"half a file")
    other = Path("kept/.notes.tmp")
    other.write_bytes(b"the user's")
    fit(trainer(ModelCheckpoint("kept"), max_epochs=2))
    assert not leftover.exists()
    assert other.exists()


# -- limits that were raised


def test_more_time_goes_on_and_no_more_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter(range(1000))

    def run(seconds: int) -> leyden.Trainer:
        return trainer(Timer(timedelta(seconds=seconds), clock=lambda: float(next(times))))

    _, result = fit(run(6))
    assert result.status == "stopped"
    assert result.steps < 12
    _, again = fit(run(6))
    assert "is finished: the time limit of 0:00:06 was reached" in capsys.readouterr().out
    assert again.steps == result.steps
    net, more = fit(run(900))
    assert (more.status, more.steps, more.epochs) == ("finished", 12, 3)
    os.mkdir("once")
    os.chdir("once")
    once, _ = fit(trainer(), None)
    assert same(net, once)


def test_the_same_limit_inside_an_epoch_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    _, result = fit(trainer(max_epochs=-1, max_steps=6))
    recorder = Recorder()
    _, again = fit(trainer(recorder, max_epochs=-1, max_steps=6))
    assert "is finished: 6 steps are done, and max_steps=6." in capsys.readouterr().out
    assert "on_train_batch_start" not in recorder.names
    assert (again.steps, again.epochs, again.history) == (6, result.epochs, result.history)


def test_a_finished_run_shows_its_epochs_values_when_it_is_repeated(tmp_path: Path) -> None:
    class Forked(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = self.model(batch).square().mean()
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

    first, again = trainer(default_root_dir=tmp_path), trainer(default_root_dir=tmp_path)
    first.fit(Forked(), DataLoader(Samples(), 2), DataLoader(Samples(), 2), ckpt_path="last")
    again.fit(Forked(), DataLoader(Samples(), 2), DataLoader(Samples(), 2), ckpt_path="last")
    assert same(first.callback_metrics["loss_epoch"], first.callback_metrics["loss"])
    assert same(dict(first.callback_metrics), dict(again.callback_metrics))
