"""What users subclass: Trainer, its callbacks, its bars and loggers, with attributes and methods of their own."""

from __future__ import annotations

import argparse
import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import kit
import pytest
import torch
from kit import Logging

import leyden
from leyden.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    ProgressBar,
    RichProgressBar,
    TQDMProgressBar,
)
from leyden.errors import UnknownName
from leyden.loggers import CSVLogger, Logger
from leyden.profilers import SimpleProfiler
from leyden.strategies import SingleDeviceStrategy

QUIET = {**kit.QUIET, "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "num_sanity_val_steps": 0}


# -- Trainer


class Mine(leyden.Trainer):
    """A trainer with an argument, an attribute and a method of its own, and defaults that differ."""

    def __init__(self, *, flavour: str = "plain", **kwargs: Any) -> None:
        kwargs.setdefault("max_epochs", 2)
        super().__init__(**kwargs)
        self.flavour = flavour
        self.fits = 0

    def fit(self, model: Any, *arguments: Any, **keywords: Any) -> Any:
        self.fits += 1
        return super().fit(model, *arguments, **keywords)

    def fit_and_test(self, model: Any) -> Any:
        self.fit(model)
        return self.test(model, verbose=False)


def test_a_trainer_of_the_user_s() -> None:
    run = Mine(flavour="vanilla", **{**QUIET, "max_epochs": 3})
    assert isinstance(run, leyden.Trainer)
    run.fit_and_test(Logging())
    assert (run.flavour, run.fits, run.max_epochs, run.global_step) == ("vanilla", 1, 3, 6)
    assert Mine().max_epochs == 2


def test_attributes_set_before_super_init() -> None:
    class Early(leyden.Trainer):
        def __init__(self, name: str, **kwargs: Any) -> None:
            self.name = name
            super().__init__(**kwargs)

    run = Early("mine", **QUIET)
    run.fit(Logging())
    assert run.name == "mine"


def test_unknown_keywords_of_a_subclass_are_still_errors() -> None:
    with pytest.raises(UnknownName, match="max_epochs"):
        Mine(flavour="plain", max_epoch=3)


def test_arguments_can_be_read_off_the_signature() -> None:
    parameters = inspect.signature(leyden.Trainer.__init__).parameters
    assert {"max_epochs", "callbacks", "accelerator", "logger"} <= set(parameters)
    assert all(each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD) for name, each in parameters.items() if name != "self")


def test_a_trainer_from_a_namespace() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--max_epochs", type=int, default=1)
    chosen = vars(parser.parse_args(["--max_epochs", "5"]))
    assert leyden.Trainer(**chosen).max_epochs == 5


def test_attributes_may_be_added_to_a_trainer() -> None:
    run = leyden.Trainer(**QUIET)
    run.my_counter = 1  # type: ignore[attr-defined]  # on purpose
    run.fit(Logging())
    assert run.my_counter == 1  # type: ignore[attr-defined]  # as above


def test_a_module_can_be_copied_and_pickled_after_a_run() -> None:
    module = Logging()
    leyden.Trainer(**QUIET).fit(module)
    twin = copy.deepcopy(module)
    again = pickle.loads(pickle.dumps(module))
    for each in (twin, again):
        assert torch.equal(each.layer.weight, module.layer.weight)
        leyden.Trainer(**QUIET).fit(each)


# -- ModelCheckpoint


def test_a_checkpoint_callback_of_the_user_s(tmp_path: Path) -> None:
    class Telling(ModelCheckpoint):
        CHECKPOINT_NAME_LAST = "newest"
        FILE_EXTENSION = ".pt"

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.saved: list[str] = []

        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            super()._save_checkpoint(trainer, filepath)
            self.saved.append(Path(filepath).name)

        def format_checkpoint_name(self, metrics: Any, filename: Any = None, ver: Any = None, prefix: Any = None) -> str:
            return super().format_checkpoint_name(metrics, filename, ver, prefix)

    keeping = Telling(tmp_path, monitor="val_loss", save_last=True, filename="{epoch}")
    run = leyden.Trainer(**{**QUIET, "enable_checkpointing": True, "callbacks": [keeping]})
    run.fit(Logging())
    assert run.checkpoint_callback is keeping
    assert "epoch=0.pt" in keeping.saved
    assert {path.name for path in tmp_path.iterdir()} == {"epoch=0.pt", "newest.pt"}
    run.test(ckpt_path="best")
    assert run.ckpt_path == str(tmp_path / "epoch=0.pt")


def test_a_checkpoint_callback_whose_hook_adds_something(tmp_path: Path) -> None:
    seen: list[int] = []

    class Adding(ModelCheckpoint):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            seen.append(batch_idx)

    leyden.Trainer(**{**QUIET, "enable_checkpointing": True, "callbacks": [Adding(tmp_path)]}).fit(Logging())
    assert seen == [0, 1]


# -- EarlyStopping


def test_early_stopping_of_the_user_s() -> None:
    class Late(EarlyStopping):
        """Does not look in the first epoch."""

        def __init__(self, *arguments: Any, warm_up: int, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.warm_up = warm_up

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch >= self.warm_up:
                super().on_validation_end(trainer, pl_module)

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch >= self.warm_up:
                super().on_train_epoch_end(trainer, pl_module)

    class Worsening(Logging):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", float(self.current_epoch))

    stopping = Late("val_loss", patience=1, warm_up=3)
    result = leyden.Trainer(**{**QUIET, "max_epochs": 10, "callbacks": [stopping]}).fit(Worsening())
    assert (result.status, result.epochs) == ("stopped", 5)


# -- bars, loggers, others


def test_a_bar_of_the_user_s() -> None:
    class Short(TQDMProgressBar):
        def init_train_tqdm(self) -> Any:
            bar = super().init_train_tqdm()
            bar.set_description("mine")
            return bar

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            items = super().get_metrics(trainer, pl_module)
            items.pop("v_num", None)
            return items

    run = leyden.Trainer(**{**QUIET, "enable_progress_bar": True, "callbacks": [Short()]})
    run.fit(Logging())
    assert isinstance(run.progress_bar_callback, Short)


def test_a_bar_from_nothing() -> None:
    class Dots(ProgressBar):
        def __init__(self) -> None:
            super().__init__()
            self.dots = 0
            self.enabled = True

        def disable(self) -> None:
            self.enabled = False

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.dots += 1

    dots = Dots()
    run = leyden.Trainer(**{**QUIET, "enable_progress_bar": True, "callbacks": [dots]})
    run.fit(Logging())
    assert dots.dots == 2
    assert run.progress_bar_callback is dots


def test_a_logger_from_nothing() -> None:
    class Rows(Logger):
        def __init__(self) -> None:
            super().__init__()
            self.rows: list[Any] = []
            self.params: Any = None

        @property
        def name(self) -> str:
            return "rows"

        @property
        def version(self) -> str:
            return "0"

        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            self.rows.append((step, set(metrics)))

        def log_hyperparams(self, params: Any, *arguments: Any, **keywords: Any) -> None:
            self.params = params

    class Tuned(Logging):
        def __init__(self, width: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()

    rows = Rows()
    leyden.Trainer(**{**QUIET, "logger": rows, "log_every_n_steps": 1}).fit(Tuned())
    assert rows.params == {"width": 3}
    assert (0, {"train_loss", "epoch"}) in rows.rows
    assert any("val_loss" in names for _, names in rows.rows)


def test_subclasses_of_what_is_built_in(tmp_path: Path) -> None:
    class Rows(CSVLogger):
        pass

    class Times(SimpleProfiler):
        pass

    class Rates(LearningRateMonitor):
        pass

    class Layers(ModelSummary):
        pass

    class Bar(RichProgressBar):
        pass

    class Device(SingleDeviceStrategy):
        pass

    run = leyden.Trainer(
        **{
            **QUIET,
            "logger": Rows(tmp_path),
            "profiler": Times(tmp_path, "times"),
            "callbacks": [Rates(), Layers(), Bar()],
            "enable_progress_bar": True,
            "enable_model_summary": True,
            "strategy": Device("cpu"),
            "accelerator": "auto",
        }
    )
    run.fit(Logging())
    assert [type(callback) for callback in run.callbacks] == [Rates, Layers, Bar]
    assert isinstance(run.strategy, Device)
    assert (tmp_path / "fit-times.txt").exists()


def test_a_callback_with_a_state_and_mixins(tmp_path: Path) -> None:
    class Counting:
        count = 0

        def tick(self) -> None:
            self.count += 1

    class Mixed(Counting, leyden.Callback):
        def on_train_batch_end(self, *arguments: Any) -> None:
            self.tick()

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.count = state_dict["count"]

    first = Mixed()
    run = leyden.Trainer(**{**QUIET, "callbacks": [first]})
    run.fit(Logging())
    run.save_checkpoint(tmp_path / "mine.ckpt")
    second = Mixed()
    leyden.Trainer(**{**QUIET, "max_epochs": 2, "callbacks": [second]}).fit(Logging(), ckpt_path=tmp_path / "mine.ckpt")
    assert (first.count, second.count) == (2, 4)
