"""A profiler in a run: which actions it is told of, where its report goes, and that it costs nothing when there is none."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import kit
import pytest
import torch

import leyden
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
        "train_dataloader_next": 8,  # each epoch asks once more than there are batches
        "batch_to_device": 10,
        "[LightningModule]Watched.training_step": 6,
        "backward": 6,
        "optimizer_step": 6,
        "val_dataloader_next": 6,
        "[LightningModule]Watched.validation_step": 4,
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
    stage = "val" if verb == "validate" else verb
    assert ledger.counts[f"[LightningModule]Watched.{word}_step"] == 2
    assert ledger.counts[f"{stage}_dataloader_next"] == 3
    assert ledger.counts["batch_to_device"] == 2
    assert ledger.counts["[LightningDataModule]BoringDataModule.prepare_data"] == 1
    assert ledger.counts["[LightningDataModule]BoringDataModule.setup"] == 1
    assert ledger.verbs == [f"setup {verb}", "describe", f"teardown {verb}"]


def test_manual_optimization() -> None:
    ledger = Ledger()
    quiet(profiler=ledger).fit(ManualOptimBoringModel())
    assert ledger.counts["backward"] == ledger.counts["optimizer_step"] == 6


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
        "[LightningModule]Watched.training_step",
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
    assert "BoringModel.test_step" in (tmp_path / "test-times.txt").read_text()


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
    assert capsys.readouterr().out.count("Profiler report") >= 1


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
