"""A profiler in a run: which actions it is told of, where its report goes, and that it costs nothing when there is none."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Clock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import leyden
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import CSVLogger
from leyden.profilers import PassThroughProfiler, Profiler, SimpleProfiler
from leyden.testing import BoringDataModule, BoringModel, ManualOptimBoringModel


class Watched(BoringModel):
    """A module with hooks of its own."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch

    def on_train_epoch_start(self) -> None:
        pass


class Watcher(leyden.Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pass


class Ledger(Profiler):
    """Writes down what it is told, and checks that actions are properly nested."""

    def __init__(self) -> None:
        super().__init__()
        self.running: list[str] = []
        self.counts: dict[str, int] = {}
        self.verbs: list[str] = []

    def start(self, action_name: str) -> None:
        assert action_name not in self.running
        self.running.append(action_name)
        self.counts[action_name] = self.counts.get(action_name, 0) + 1

    def stop(self, action_name: str) -> None:
        assert self.running.pop() == action_name

    def setup(self, stage: str, local_rank: Any = None, log_dir: Any = None) -> None:
        self.verbs.append(f"setup {stage}")

    def describe(self) -> None:
        self.verbs.append("describe")

    def teardown(self, stage: str | None) -> None:
        self.verbs.append(f"teardown {stage}")


quiet = partial(
    kit.trainer,
    max_epochs=2,
    limit_train_batches=3,
    limit_val_batches=2,
    limit_test_batches=2,
    limit_predict_batches=2,
    num_sanity_val_steps=0,
)


def test_every_action_of_a_fit() -> None:
    ledger = Ledger()
    quiet(profiler=ledger, callbacks=[Watcher()]).fit(Watched())
    assert ledger.running == []
    expected = {
        "run_training_epoch": 2,
        "run_training_batch": 6,
        "[_TrainingEpochLoop].train_dataloader_next": 6,
        "[Strategy]SingleDeviceStrategy.batch_to_device": 10,
        "[Strategy]SingleDeviceStrategy.training_step": 6,
        "[Strategy]SingleDeviceStrategy.backward": 6,
        "[LightningModule]Watched.optimizer_step": 6,
        "[LightningModule]Watched.optimizer_zero_grad": 6,
        "[LightningModule]Watched.lr_scheduler_step": 2,
        "[_EvaluationLoop].val_next": 4,
        "[Strategy]SingleDeviceStrategy.validation_step": 4,
        "run_validation": 2,
        "write_epoch_row": 2,
        "[LightningModule]Watched.on_before_batch_transfer": 10,
        "[LightningModule]Watched.on_train_epoch_start": 2,
        "[LightningModule]Watched.configure_optimizers": 1,
        "[LightningModule]Watched.prepare_data": 1,
        "[LightningModule]Watched.setup": 1,
        "[Callback]Watcher.on_train_batch_end": 6,
        "[Callback]Watcher.setup": 1,
    }
    assert {name: ledger.counts.get(name) for name in expected} == expected
    assert ledger.verbs == ["setup fit", "describe", "teardown fit"]


@pytest.mark.parametrize(("verb", "word"), [("validate", "validation"), ("test", "test"), ("predict", "predict")])
def test_every_action_of_the_other_verbs(verb: str, word: str) -> None:
    ledger = Ledger()
    getattr(quiet(profiler=ledger), verb)(Watched(), datamodule=BoringDataModule())
    fetch = {"validate": "[_EvaluationLoop].val_next", "predict": "[_PredictionLoop].predict_next"}
    assert ledger.counts[f"[Strategy]SingleDeviceStrategy.{word}_step"] == 2
    assert ledger.counts[fetch.get(verb, "[_EvaluationLoop].test_next")] == 2
    assert ledger.counts["[Strategy]SingleDeviceStrategy.batch_to_device"] == 2
    assert ledger.counts["[LightningDataModule]BoringDataModule.prepare_data"] == 1
    assert ledger.counts["[LightningDataModule]BoringDataModule.setup"] == 1
    assert ledger.verbs == [f"setup {verb}", "describe", f"teardown {verb}"]


def test_manual_optimization() -> None:
    ledger = Ledger()
    quiet(profiler=ledger).fit(ManualOptimBoringModel())
    assert ledger.counts["[Strategy]SingleDeviceStrategy.backward"] == ledger.counts["optimizer_step"] == 6


def test_a_module_with_its_own_optimizer_step() -> None:
    class Own(BoringModel):
        def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
            super().optimizer_step(*arguments, **keywords)

    ledger = Ledger()
    quiet(profiler=ledger).fit(Own())
    assert ledger.counts["[LightningModule]Own.optimizer_step"] == ledger.counts["optimizer_step"] == 6


def test_the_simple_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    quiet(profiler="simple", callbacks=[Watcher()]).fit(Watched())
    table = capsys.readouterr().out
    for action in (
        "[Strategy]SingleDeviceStrategy.training_step",
        "backward",
        "optimizer_step",
        "train_dataloader_next",
        "batch_to_device",
        "[Callback]Watcher.on_train_batch_end",
    ):
        assert action in table


def test_a_report_goes_into_its_file(tmp_path: Path) -> None:
    trainer = quiet(profiler=SimpleProfiler(dirpath=tmp_path, filename="times"), default_root_dir=tmp_path / "elsewhere")
    trainer.fit(BoringModel())
    assert "optimizer_step" in (tmp_path / "fit-times.txt").read_text()
    trainer.test()
    assert "[Strategy]SingleDeviceStrategy.test_step" in (tmp_path / "test-times.txt").read_text()


def test_without_a_folder_the_report_goes_into_the_run(tmp_path: Path) -> None:
    trainer = quiet(profiler=SimpleProfiler(filename="times"), logger=True, default_root_dir=tmp_path)
    trainer.fit(BoringModel())
    assert trainer.log_dir is not None
    assert (Path(trainer.log_dir) / "fit-times.txt").exists()


def test_a_run_that_fails_is_reported_too() -> None:
    class Failing(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("mine")

    ledger = Ledger()
    with pytest.raises(ValueError, match="mine"):
        quiet(profiler=ledger).fit(Failing())
    assert ledger.running == []
    assert ledger.verbs == ["setup fit", "describe", "teardown fit"]


def test_users_may_measure_their_own() -> None:
    class Mine(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            with self.trainer.profiler.profile("my forward"):
                return super().training_step(batch, batch_idx)

    ledger = Ledger()
    quiet(profiler=ledger).fit(Mine())
    assert ledger.counts["my forward"] == 6
    trainer = quiet()
    trainer.fit(Mine())
    assert isinstance(trainer.profiler, PassThroughProfiler)


@pytest.mark.parametrize("name", ["simple", "advanced", "pytorch"])
def test_all_built_in_profilers_run_all_verbs(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trainer = quiet(profiler=name, default_root_dir=tmp_path, limit_train_batches=8)
    module = Watched()
    trainer.fit(module)
    trainer.validate(module)
    trainer.test(module)
    trainer.predict(module)
    assert capsys.readouterr().out.count("Profiler Report") == 4


def test_nothing_is_wrapped_when_nothing_is_measured() -> None:
    class Off(PassThroughProfiler):
        def start(self, action_name: str) -> None:
            raise AssertionError("nothing was to be measured")

    trainer = quiet(profiler=Off(), callbacks=[Watcher()])
    trainer.fit(Watched())
    assert trainer.leyden_hooks is not None
    receivers = trainer.leyden_hooks.receivers(leyden.Callback.on_train_batch_end)
    assert all("measured" not in repr(receiver) for receiver in receivers)


def test_profiled_training_is_the_same_training() -> None:
    weights = []
    for profiler in (None, "simple"):
        torch.manual_seed(0)
        module = BoringModel()
        quiet(profiler=profiler).fit(module)
        weights.append(module.layer.weight.detach().clone())
    assert torch.equal(*weights)


class Sized(Dataset[Tensor]):
    """Six samples; to read one takes four seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Tensor:
        self.clock.now += 4.0
        return torch.ones(32)


class Slowed(BoringModel):
    """A module whose every part takes a time of its own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.clock.now += 0.5
        with self.trainer.profiler.profile("my part"):
            self.clock.now += 0.25
        loss = self.layer(batch).sum()
        loss.register_hook(lambda _: self.take(8.0))
        self.log("loss", loss)
        return loss

    def take(self, seconds: float) -> None:
        self.clock.now += seconds

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        self.clock.now += 16.0
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.clock.now += 32.0

    def configure_gradient_clipping(self, *arguments: Any) -> None:
        self.clock.now += 64.0

    def on_train_batch_end(self, *_: Any) -> None:
        self.clock.now += 128.0

    def lr_scheduler_step(self, *_: Any) -> None:
        self.clock.now += 256.0


class Slow(leyden.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_before_zero_grad(self, *_: Any) -> None:
        self.clock.now += 512.0

    def on_validation_epoch_end(self, *_: Any) -> None:
        self.clock.now += 1024.0

    def on_save_checkpoint(self, *_: Any) -> None:
        self.clock.now += 2048.0


def test_the_parts_of_the_epochs_add_up(tmp_path: Path) -> None:
    """A clock that only the parts move: each has exactly the seconds that were spent in it."""
    clock = Clock()
    profiler = SimpleProfiler()
    profiler.leyden_clock = clock
    options = {"max_epochs": 2, "logger": [Rows(clock, tmp_path)], "log_every_n_steps": 2, "enable_checkpointing": True}
    trainer = kit.trainer(ModelCheckpoint(tmp_path / "kept"), Slow(clock), profiler=profiler, gradient_clip_val=1.0, **options)
    trainer.fit(Slowed(clock), DataLoader(Sized(clock), batch_size=2), DataLoader(torch.ones(2, 32)))
    batches, epochs = 6, 2
    assert {name: seconds for name, seconds in profiler.leyden_parts().items() if seconds} == {
        "data": 4.0 * 2 * batches,
        "transfer": 16.0 * batches,
        "forward": 0.5 * batches,
        "my part": 0.25 * batches,
        "backward": 8.0 * batches,
        "optimizer": 64.0 * batches + 256.0 * epochs,
        "hooks of Slowed": 128.0 * batches,
        "hooks of Slow": 512.0 * batches,
        "validation": epochs * (2 * (32.0 + 16.0) + 1024.0),
        "hooks of ModelCheckpoint": 2048.0 * epochs,
        "logging": 4096.0 * (batches // 2),
    }
    assert sum(profiler.leyden_parts().values()) == sum(profiler.recorded_durations["run_training_epoch"])


class Rows(CSVLogger):
    def __init__(self, clock: Clock, folder: Path) -> None:
        super().__init__(folder)
        self.clock = clock

    def log_metrics(self, *arguments: Any, **keywords: Any) -> None:
        self.clock.now += 4096.0
        super().log_metrics(*arguments, **keywords)


@pytest.mark.parametrize("module", [Watched, ManualOptimBoringModel])
def test_by_a_real_clock_the_parts_add_up_too(module: Any) -> None:
    profiler = SimpleProfiler()
    quiet(profiler=profiler, callbacks=[Watcher()]).fit(module())
    parts, whole = profiler.leyden_parts(), sum(profiler.recorded_durations["run_training_epoch"])
    assert sum(parts.values()) == pytest.approx(whole, rel=1e-9)
    assert all(seconds >= 0 for seconds in parts.values())
    assert all(parts[name] > 0 for name in ("data", "forward", "backward", "optimizer", "validation", "loop"))
    assert (parts["transfer"] > 0) == (module is Watched)  # on a CPU there is something to do where a hook does it


def calls_of(profiler: Any) -> int:
    """Python calls of a fit."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    trainer, module = quiet(profiler=profiler, callbacks=[Watcher()], limit_train_batches=30), Watched()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        trainer.fit(module)
    finally:
        sys.setprofile(before)
    return count


def test_off_is_as_if_there_were_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a profiler is asked for before the loop are its only calls: none is made in a step, and a run asks that once."""
    calls_of(None)  # what is imported and cached by a first run
    counts = [calls_of(None), calls_of(PassThroughProfiler()), calls_of(None), calls_of(PassThroughProfiler())]
    assert abs(min(counts[0::2]) - min(counts[1::2])) < 5  # 30 steps, and no call in any of them is another
    asked: list[str] = []
    plain = Profiler.leyden_around

    def around(self: Any, action_name: str, function: Any) -> Any:
        asked.append(action_name)
        answer = plain(self, action_name, function)
        assert answer is function
        return answer

    monkeypatch.setattr(Profiler, "leyden_around", around)
    for method in ("start", "stop", "profile"):
        monkeypatch.setattr(PassThroughProfiler, method, None)
    asked_in = []
    for batches in (5, 50):
        asked.clear()
        quiet(limit_train_batches=batches, limit_val_batches=batches, callbacks=[Watcher()]).fit(Watched())
        asked_in.append(len(asked))
    assert asked_in[0] == asked_in[1]
