"""Bad input: each mistake is an error of the one tree that says what was given, what was expected and what to do."""

from __future__ import annotations

import inspect
import os
import pickle
import warnings
from collections.abc import Callable as Function
from functools import partial
from pathlib import Path
from typing import Any

import kit
import numpy as np
import pytest
import torch
from kit import Stream
from public_names import constructor_arguments
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden import Callback, LightningModule, Trainer, callbacks, profilers
from leyden.callbacks import EarlyStopping, ModelCheckpoint, ModelSummary, RichProgressBar, Timer, TQDMProgressBar
from leyden.cli import LightningCLI
from leyden.errors import (
    CheckpointDamaged,
    CheckpointForeign,
    CheckpointMismatch,
    CheckpointMissing,
    CheckpointWriteFailed,
    ConflictingOptions,
    EmptyLoader,
    IllegalLog,
    InvalidLoader,
    InvalidOption,
    InvalidReturn,
    InvalidType,
    LeydenError,
    MisconfigurationException,
    MissingMethod,
    MissingModel,
    MissingMonitor,
    PossibleUserWarning,
    UnknownName,
    Unsupported,
)
from leyden.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from leyden.module import NotAttached
from leyden.plugins import AsyncCheckpointIO
from leyden.strategies import DDPStrategy, FSDPStrategy
from leyden.testing import BoringDataModule, BoringModel, Recorder, random_batches
from leyden.tuner import Tuner
from leyden.utilities import Throughput

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*no validation (loader|runs)"),
    pytest.mark.filterwarnings("ignore:The training loader is an iterator"),
]
trainer = partial(
    kit.trainer, limit_train_batches=2, limit_val_batches=1, limit_test_batches=1, limit_predict_batches=1, num_sanity_val_steps=0
)


# Every argument of the Trainer

T, V = InvalidType, InvalidOption
BOOL = "True or False"
LIMIT = r"a whole number of batches \(an int >= 0\), or a share of them \(a float from 0.0 to 1.0\)"
TIME = 'a duration: "DD:HH:MM:SS"'
INTERVAL = "a share of an epoch .*a number of training batches .*or a time"
WRONG: dict[str, list[tuple[Any, type[Exception], str]]] = {
    # argument: values that cannot be used, the error, what it says was expected
    "accelerator": [
        ("gpux", V, "one of 'auto', 'cpu', .* Did you mean 'gpu'"),
        (3, T, "one of 'auto'"),
        ("tpu", Unsupported, "Use accelerator='auto'"),
    ],
    "strategy": [
        ("singel_device", V, "Did you mean 'single_device'"),
        (3, T, "a Strategy"),
        ("deepspeed", Unsupported, "not wrapped"),
        ("dp", Unsupported, "removed from Lightning too"),
    ],
    "devices": [
        (0, V, "a number of processes"),
        ("many", T, "a number of processes"),
        (1.5, T, "a number"),
        (-2, V, "a number"),
        ([], T, "a number"),
    ],
    "hang_timeout": [("soon", V, "a duration"), ([], V, "seconds")],
    "max_restarts": [(-1, V, "a number"), ("two", T, "a number")],
    "num_nodes": [(0, V, "a number of nodes >= 1"), ("two", T, "a number of nodes >= 1"), (-1, V, "a number of nodes")],
    "precision": [
        ("17-mixed", V, "one of '64-true'"),
        (17, V, "one of '64-true'"),
        (1.5, T, "one of '64-true'"),
        ("transformer-engine", Unsupported, "precision"),
    ],
    "logger": [
        ("WandLogger", T, r"WandbLogger\(\)"),
        (CSVLogger, T, r"Pass an instance: CSVLogger"),
        (3, T, "a Logger, a list of them, True or False"),
        ("csv", T, r"Pass leyden.loggers.CSVLogger\(save_dir\)"),
        ([3], T, "a Logger"),
    ],
    "callbacks": [
        (3, T, "a leyden.Callback or a list"),
        ("bar", T, "a leyden.Callback"),
        ([3], T, "a leyden.Callback"),
        (EarlyStopping, T, r"Make an instance of it: put \(\) behind its name"),
        ([ModelSummary], T, "Make an instance"),
    ],
    "fast_dev_run": [
        ("yes", T, "True, False, or a number of batches"),
        (-1, V, "a number of batches >= 0"),
        (1.5, T, "a number"),
    ],
    "max_epochs": [
        ("ten", T, "a number of epochs >= 0, -1 for no limit, or None"),
        (-2, V, "a number of epochs"),
        (1.5, T, "a number of epochs"),
    ],
    "min_epochs": [("ten", T, "a number of epochs >= 0, or None"), (-1, V, "a number of epochs")],
    "max_steps": [
        ("ten", T, "a number of steps >= 0, -1 for no limit"),
        (-2, V, "a number of steps"),
        (1.5, T, "a number of steps"),
    ],
    "min_steps": [("ten", T, "a number of steps >= 0, or None"), (-1, V, "a number of steps")],
    "max_time": [
        ("long", V, TIME),
        (3, T, TIME),
        ("00:99:00", V, TIME),
        ({"weeky": 1}, T, TIME),
        ({}, T, TIME),
        ({"seconds": -1}, V, "not negative"),
    ],
    "limit_train_batches": [("all", T, LIMIT), (-1, V, LIMIT), (1.5, V, LIMIT), (True, T, LIMIT)],
    "limit_val_batches": [("all", T, LIMIT), (-1, V, LIMIT), (1.5, V, LIMIT)],
    "limit_test_batches": [("all", T, LIMIT), (-1, V, LIMIT), (1.5, V, LIMIT)],
    "limit_predict_batches": [("all", T, LIMIT), (-1, V, LIMIT), (1.5, V, LIMIT)],
    "overfit_batches": [("all", T, LIMIT), (-1, V, LIMIT), (1.5, V, LIMIT)],
    "val_check_interval": [
        ("often", V, "DD:HH:MM:SS"),
        (-1, V, INTERVAL),
        (1.5, V, INTERVAL),
        (0, V, INTERVAL),
        (True, T, INTERVAL),
        ([1], T, "duration"),
    ],
    "check_val_every_n_epoch": [
        ("one", T, "a number of epochs >= 1, or None"),
        (0, V, "a number of epochs"),
        (1.5, T, "a number of epochs"),
    ],
    "num_sanity_val_steps": [("two", T, "a number of batches >= 0, or -1 for all"), (-2, V, "-1 for all")],
    "log_every_n_steps": [("ten", T, "a number of steps >= 1, or 0"), (-1, V, "a number of steps")],
    "enable_checkpointing": [("no", T, BOOL), (2, T, BOOL)],
    "enable_progress_bar": [("no", T, BOOL), (2, T, BOOL)],
    "enable_model_summary": [("no", T, BOOL), (2, T, BOOL)],
    "accumulate_grad_batches": [
        ("two", T, "a number of batches >= 1, or a dict"),
        (0, V, "a number of batches >= 1"),
        (1.5, T, "a number"),
        ({}, V, "at least one entry"),
        ({-1: 2}, V, "counted from 0"),
        ({0: 0}, V, "a number of batches"),
    ],
    "gradient_clip_val": [
        ("much", T, "a positive number, or 0 or None"),
        (-1, V, "a positive number"),
        (float("nan"), V, "a positive number"),
    ],
    "gradient_clip_algorithm": [("median", V, '"norm" or "value"'), (3, T, '"norm" or "value"')],
    "deterministic": [("yes", V, 'True, False, "warn" or None'), (3, T, '"warn" or None')],
    "benchmark": [("yes", T, BOOL)],
    "inference_mode": [("yes", T, BOOL), (None, T, BOOL)],
    "use_distributed_sampler": [("yes", T, BOOL)],
    "profiler": [
        ("simpel", V, "one of 'simple', 'advanced', 'pytorch', a Profiler, or None"),
        (3, T, "a Profiler"),
        ("xla", Unsupported, "pytorch"),
    ],
    "detect_anomaly": [("yes", T, BOOL)],
    "barebones": [("yes", T, BOOL)],
    "plugins": [(3, T, "a Precision, a CheckpointIO, a ClusterEnvironment or a LayerSync"), ("mixed", T, "a Precision")],
    "sync_batchnorm": [("yes", T, BOOL)],
    "reload_dataloaders_every_n_epochs": [
        ("one", T, "a number of epochs >= 0"),
        (-1, V, "a number of epochs"),
        (1.5, T, "a number of epochs"),
    ],
    "default_root_dir": [(3, T, "a path or an URL")],
    "enable_autolog_hparams": [("yes", T, BOOL)],
    "model_registry": [("mine", Unsupported, "Save with ModelCheckpoint")],
    "suggest_integrations": [("yes", T, BOOL)],
    "stop_on_nonfinite_loss": [("yes", T, BOOL)],
}
CASES = [(name, *case) for name, cases in WRONG.items() for case in cases]


@pytest.mark.parametrize(
    ("name", "given", "kind", "expected"), CASES, ids=[f"{name}={given!r}"[:50] for name, given, *_ in CASES]
)
def test_a_wrong_argument(name: str, given: Any, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=f"(?s){expected}") as caught:
        Trainer(**{name: given})
    assert type(caught.value) is kind
    assert isinstance(caught.value, MisconfigurationException)
    assert isinstance(caught.value, TypeError if kind is InvalidType else ValueError)
    text = str(caught.value)
    assert name in text
    assert repr(given) in text or isinstance(given, list | dict)


MADE: dict[Any, dict[str, Any]] = {
    **{
        each: {}
        for each in (
            *(callbacks.BackboneFinetuning, callbacks.BasePredictionWriter, callbacks.BatchSizeFinder),
            *(callbacks.DeviceStatsMonitor, callbacks.EMAWeightAveraging, callbacks.LambdaCallback),
            *(callbacks.LearningRateFinder, callbacks.LearningRateMonitor, callbacks.RichModelSummary),
            *(ModelCheckpoint, ModelSummary, RichProgressBar, Timer, TQDMProgressBar),
            *(callbacks.SpikeDetection, callbacks.WeightAveraging, Throughput, MLFlowLogger, WandbLogger),
            *(profilers.AdvancedProfiler, profilers.PyTorchProfiler, profilers.SimpleProfiler),
        )
    },
    EarlyStopping: {"monitor": "loss"},
    callbacks.GradientAccumulationScheduler: {"scheduling": {0: 1}},
    callbacks.ModelPruning: {"pruning_fn": "l1_unstructured"},
    callbacks.OnExceptionCheckpoint: {"dirpath": "kept"},
    callbacks.StochasticWeightAveraging: {"swa_lrs": 0.1},
    callbacks.ThroughputMonitor: {"batch_size_fn": len},
    CSVLogger: {"save_dir": "logs"},
    TensorBoardLogger: {"save_dir": "logs"},
}
"""What callbacks, loggers and profilers need in order to be made."""


class Nonsense:
    def __repr__(self) -> str:
        return "<nonsense>"


def made_with(cls: Any, name: str, given: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**{**MADE[cls], name: given})


@pytest.mark.parametrize("given", [Nonsense(), float("nan")], ids=repr)
@pytest.mark.parametrize("cls", MADE, ids=lambda cls: cls.__name__)
def test_nonsense_is_no_value_of_any_argument(cls: Any, given: Any) -> None:
    for name in constructor_arguments(cls):
        with pytest.raises(InvalidOption, match=name) as caught:
            made_with(cls, name, given)
        assert repr(given) in str(caught.value)


@pytest.mark.parametrize(
    ("cls", "name", "given", "expected"),
    [
        (EarlyStopping, "monitor", "", "the name of a logged metric"),
        (EarlyStopping, "min_delta", float("inf"), "a difference"),
        (ModelCheckpoint, "monitor", "", "the name of a logged metric"),
        (ModelCheckpoint, "verbose", 2, "True or False"),
        (ModelCheckpoint, "filename", "{epoch", "each pair of braces holds a metric"),
        (ModelCheckpoint, "filename", "{epoch-{val_loss}", "each pair of braces holds a metric"),
        (ModelCheckpoint, "filename", "x" * 260 + "{epoch}", "a name of at most 250 bytes, and this has 260"),
        (ModelCheckpoint, "filename", "{}", "each pair of braces holds a metric"),
        (ModelCheckpoint, "filename", "a\0b", "each pair of braces holds a metric"),
        (ModelCheckpoint, "filename", "{epoch:02d}-{val_loss:two}", "a format of numbers for val_loss, which 'two' is not"),
        (ModelCheckpoint, "save_on_train_epoch_end", "yes", "True or False, or None"),
        (Timer, "verbose", "no", "True or False"),
        (Throughput, "available_flops", 0, "operations a second"),
        (Throughput, "available_flops", float("inf"), "operations a second"),
        (callbacks.BackboneFinetuning, "initial_denom_lr", 0, "above 0"),
        (callbacks.BackboneFinetuning, "backbone_initial_lr", float("inf"), "a learning rate >= 0"),
        (callbacks.SpikeDetection, "atol", -0.5, "a distance >= 0"),
        (callbacks.SpikeDetection, "rtol", -1, "a share of the mean >= 0"),
        (callbacks.StochasticWeightAveraging, "swa_lrs", float("inf"), "a positive float"),
        (callbacks.ModelPruning, "pruning_dim", True, "the number of a dimension"),
        (callbacks.ModelPruning, "pruning_norm", 0, "the n of a norm, above 0"),
        (callbacks.ModelPruning, "parameter_names", "", "a list of 'weight' and 'bias'"),
        (callbacks.ModelPruning, "parameters_to_prune", 0, "or none for all"),
        (RichProgressBar, "theme", "dark", "a RichProgressBarTheme"),
        (CSVLogger, "version", -1, "a number >= 0"),
        (CSVLogger, "prefix", 3, "a text"),
        (CSVLogger, "prefix", Path("a"), "a text"),
        (MLFlowLogger, "prefix", 3, "a text"),
        (MLFlowLogger, "run_id", 5, "a text, or None"),
        (WandbLogger, "project", 5, "a text, or None"),
        (WandbLogger, "offline", "yes", "True or False"),
        (WandbLogger, "experiment", "run", "a run of W&B"),
        (profilers.SimpleProfiler, "dirpath", 3, "a path, or None"),
        (profilers.PyTorchProfiler, "sort_by_key", 3, "the name of a column"),
        (profilers.PyTorchProfiler, "table_kwargs", "wide", "a dict of keywords"),
    ],
)
def test_values_that_an_argument_cannot_have(cls: Any, name: str, given: Any, expected: str) -> None:
    with pytest.raises(InvalidOption, match=rf"(?s)^{name}=.*cannot be used: expected .*{expected}"):
        made_with(cls, name, given)


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (BoringModel().save_hyperparameters, "ignore", "a name, or a list of names"),
        (partial(leyden.LightningDataModule.from_datasets, [1]), "batch_size", "a number of samples >= 1, or None"),
        (partial(leyden.LightningDataModule.from_datasets, [1]), "num_workers", "a number of processes >= 0"),
        (DDPStrategy, "parallel_devices", "a list, or None"),
        (DDPStrategy, "cluster_environment", "a ClusterEnvironment"),
        (DDPStrategy, "ddp_comm_hook", "a function, or None"),
        (DDPStrategy, "model_averaging_period", "a number of steps >= 1"),
        (DDPStrategy, "timeout", "a datetime.timedelta, or None"),
        (FSDPStrategy, "mixed_precision", "a MixedPrecisionPolicy"),
        (AsyncCheckpointIO, "checkpoint_io", "a CheckpointIO"),
        (profilers.PassThroughProfiler, "filename", "a text, or None"),
        (partial(Tuner(trainer()).lr_find, BoringModel()), "update_attr", "True or False"),
        (partial(LightningCLI, BoringModel, run=False), "args", "a list of words"),
        (partial(LightningCLI, BoringModel, args=[]), "run", "True or False"),
        (partial(LightningCLI, BoringModel, run=False, args=[]), "parser_class", "a class"),
        (partial(LightningCLI, BoringModel, run=False, args=[]), "trainer_defaults", "a dict, or None"),
        (partial(LightningCLI, BoringModel, run=False, args=[]), "seed_everything_default", "a seed"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_nonsense_for_plug_ins_tuner_and_command_line(make: Any, name: str, expected: str) -> None:
    with pytest.raises(InvalidType, match=f"^{name}=<nonsense> cannot be used: expected {expected}"):
        make(**{name: Nonsense()})


@pytest.mark.parametrize("kind", [CSVLogger, MLFlowLogger, TensorBoardLogger])
def test_none_is_no_switch_and_no_prefix(kind: Any, tmp_path: Path) -> None:
    logger = kind(save_dir=str(tmp_path), prefix=None)
    timer = Timer(verbose=None)  # type: ignore[arg-type]  # as programs say
    kit.fit(kit.Logging(), logger=logger, callbacks=[timer], limit_train_batches=2, limit_val_batches=1, log_every_n_steps=1)
    if kind is CSVLogger:
        assert "train_loss" in kit.rows(logger.log_dir)[0]


@pytest.mark.parametrize("given", [True, 1, np.True_, np.bool_(False), 0])
def test_a_switch_may_be_said_by_numbers(given: Any) -> None:
    assert EarlyStopping("loss", verbose=given).verbose == given


def test_numbers_of_numpy_are_numbers() -> None:
    class Scheduled(BoringModel):
        def configure_optimizers(self) -> Any:
            optimizer = sgd(self)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": np.int64(2)}]

    run = trainer(
        callbacks=[EarlyStopping("loss", patience=np.int64(5), strict=np.bool_(False))],  # type: ignore[arg-type]
        **{name: np.int64(2) for name in ("max_epochs", "limit_train_batches", "accumulate_grad_batches", "val_check_interval")},
        **{name: np.int64(2) for name in ("log_every_n_steps", "check_val_every_n_epoch", "limit_val_batches", "max_steps")},
        **{name: np.float32(1.0) for name in ("gradient_clip_val", "limit_test_batches", "limit_predict_batches")},
        **{name: np.bool_(True) for name in ("inference_mode", "use_distributed_sampler")},
    )
    assert type(run.max_epochs) is int
    run.fit(Scheduled())
    assert (run.global_step, run.current_epoch) == (2, 2)
    assert run.optimizers[0].param_groups[0]["lr"] == 0.05
    assert run.early_stopping_callback is not None
    assert type(run.early_stopping_callback.patience) is int
    with pytest.raises(InvalidType, match=r"max_epochs=1\.5"):
        trainer(max_epochs=np.float64(1.5))


def test_the_tuner_takes_numbers_of_numpy_and_names_a_misspelt_word() -> None:
    class Sized(BoringModel):
        batch_size, lr = 2, 0.01

        def train_dataloader(self) -> Any:
            return DataLoader(torch.randn(8, 32), batch_size=self.batch_size)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    tuner, module = Tuner(trainer()), Sized()
    assert tuner.scale_batch_size(module, init_val=np.int64(4), max_trials=np.int64(1), steps_per_trial=1) == 4
    assert type(module.batch_size) is int
    found = tuner.lr_find(module, min_lr=np.float64(1e-3), num_training=np.int64(2), early_stop_threshold=None)
    assert found is not None
    assert [type(rate) for rate in found.results["lr"]] == [float, float]
    with pytest.raises(UnknownName, match=r"Tuner\.lr_find got an unknown argument 'num_trainin'\. Did you mean 'num_training'"):
        tuner.lr_find(module, num_trainin=3)  # type: ignore[call-arg]  # the mistake under test


def test_every_argument_is_in_the_table() -> None:
    known = {name for name, each in inspect.signature(Trainer.__init__).parameters.items() if each.kind is each.KEYWORD_ONLY}
    later = {"crash_capsule"}  # has tests of its own
    assert known - later == set(WRONG)


def test_a_long_value_is_shown_in_part() -> None:
    with pytest.raises(InvalidType) as caught:
        trainer().fit(nn.Sequential(*[nn.Linear(2, 2) for _ in range(100)]))  # type: ignore[arg-type]
    assert len(str(caught.value)) < 500
    assert "Sequential" in str(caught.value)


CONFLICTS: list[tuple[Function[[], Any], list[str]]] = [
    (lambda: trainer(min_epochs=5, max_epochs=2), ["min_epochs=5", "max_epochs=2"]),
    (lambda: trainer(min_steps=5, max_steps=2), ["min_steps=5", "max_steps=2"]),
    (
        lambda: trainer(check_val_every_n_epoch=None, val_check_interval=0.5),
        ["check_val_every_n_epoch=None", "val_check_interval"],
    ),
    (lambda: trainer(callbacks=ModelCheckpoint()), ["enable_checkpointing=False", "ModelCheckpoint"]),
    (lambda: trainer(callbacks=RichProgressBar()), ["enable_progress_bar=False", "RichProgressBar"]),
    (lambda: Trainer(callbacks=[RichProgressBar(), TQDMProgressBar()]), ["RichProgressBar, TQDMProgressBar", "Leave one"]),
    (lambda: Trainer(callbacks=[EarlyStopping("a"), EarlyStopping("a")]), ["state key", "EarlyStopping"]),
    (lambda: Trainer(barebones=True, logger=True), ["barebones=True", "logger=True"]),
    (lambda: Trainer(barebones=True, enable_checkpointing=True), ["barebones=True", "enable_checkpointing=True"]),
    (lambda: Trainer(barebones=True, enable_progress_bar=True), ["barebones=True", "enable_progress_bar=True"]),
    (lambda: Trainer(barebones=True, enable_model_summary=True), ["barebones=True", "enable_model_summary=True"]),
    (lambda: Trainer(barebones=True, num_sanity_val_steps=1), ["barebones=True", "num_sanity_val_steps=1"]),
    (lambda: Trainer(barebones=True, fast_dev_run=True), ["barebones=True", "fast_dev_run=True"]),
    (lambda: Trainer(barebones=True, profiler="simple"), ["barebones=True", "profiler='simple'"]),
    (lambda: Trainer(barebones=True, log_every_n_steps=1), ["barebones=True", "log_every_n_steps=1"]),
    (lambda: Trainer(precision="64", plugins=leyden.plugins.DoublePrecision()), ["precision='64'", "plugins="]),
    (
        lambda: trainer().fit(BoringModel(), random_batches(1), datamodule=BoringDataModule()),
        ["train_dataloaders=", "datamodule="],
    ),
    (
        lambda: trainer().fit(BoringModel(), BoringDataModule(), datamodule=BoringDataModule()),
        ["train_dataloaders", "datamodule"],
    ),
    (lambda: trainer().test(BoringModel(), random_batches(1), datamodule=BoringDataModule()), ["dataloaders=", "datamodule="]),
    (lambda: trainer(val_check_interval=100).fit(BoringModel()), ["val_check_interval=100", "2 training batches"]),
]


@pytest.mark.parametrize(("make", "named"), CONFLICTS, ids=[", ".join(named) for _, named in CONFLICTS])
def test_options_that_conflict(make: Function[[], Any], named: list[str]) -> None:
    with pytest.raises(ConflictingOptions) as caught:
        make()
    assert all(each in str(caught.value) for each in named), caught.value
    assert isinstance(caught.value, ValueError)


# The model


class NoSuper(BoringModel):
    def __init__(self) -> None:
        """Forgets super().__init__()."""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (BoringModel, "That is the class itself: make an instance of it"),
        (nn.Linear(2, 2), "A plain torch module has no training_step: inherit from leyden.LightningModule"),
        (3, "expected a leyden.LightningModule"),
        (None, "model=None"),
        ("model.ckpt", "model='model.ckpt'"),
        (NoSuper(), r"a module whose __init__ calls super\(\).__init__\(\) before anything else"),
    ],
    ids=["class", "torch module", "number", "nothing", "path", "no super().__init__()"],
)
def test_what_is_no_model(model: Any, said: str) -> None:
    with pytest.raises(InvalidType, match=said) as caught:
        trainer().fit(model)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_model_and_its_loader_that_are_swapped(verb: str) -> None:
    with pytest.raises(InvalidType, match=r"The model comes first, and the data after it: are the two swapped\?"):
        getattr(trainer(), verb)(random_batches(1), BoringModel())


def test_the_root_of_all_files_is_what_is_named_where_nothing_else_was_given(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "x"
    options: dict[str, Any] = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with pytest.raises(CheckpointWriteFailed, match=r"Give the Trainer another default_root_dir, or ModelCheckpoint a dirpath"):
        leyden.Trainer(**options, default_root_dir=root).fit(BoringModel())
    with pytest.raises(CheckpointWriteFailed, match=r"Give another dirpath\."):
        leyden.Trainer(**options, callbacks=ModelCheckpoint(root)).fit(BoringModel())
    with pytest.raises(InvalidOption, match=r"^default_root_dir=.*Give another default_root_dir, or logger=False"):
        leyden.Trainer(**{**options, "logger": True}, default_root_dir=root).fit(BoringModel())
    with pytest.raises(InvalidOption, match=r"^save_dir=.*Give another save_dir, or logger=False"):
        leyden.Trainer(**{**options, "logger": CSVLogger(root)}, default_root_dir=tmp_path).fit(BoringModel())


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_verb_without_a_model(verb: str) -> None:
    with pytest.raises(MissingModel, match=rf"trainer\.{verb}\(\) was called without a model, and none was used before"):
        getattr(trainer(), verb)()
    with pytest.raises(TypeError):
        getattr(trainer(), verb)()


def test_a_trainer_without_a_module() -> None:
    with pytest.raises(MissingModel, match="The trainer has no module yet, so there is nothing to save"):
        trainer().save_checkpoint("x.ckpt")
    asked: Any = trainer().lightning_module
    assert asked is None


def test_a_module_without_a_trainer() -> None:
    with pytest.raises(NotAttached, match="BoringModel is not attached to a `Trainer`"):
        BoringModel().trainer  # noqa: B018


def without(*names: str) -> Any:
    return type("Lacking", (BoringModel,), {name: getattr(LightningModule, name) for name in names})()


@pytest.mark.parametrize(
    ("verb", "names", "said"),
    [
        (
            "fit",
            ["training_step"],
            r"Lacking has no `training_step`, which fit needs: def training_step\(self, batch, batch_idx\)",
        ),
        ("fit", ["configure_optimizers"], r"Lacking has no `configure_optimizers`, which fit needs.*let it return None"),
        ("fit", ["train_dataloader"], r"nothing to train on: pass train_dataloaders=, or give Lacking .*a `train_dataloader`"),
        ("validate", ["validation_step"], r"Lacking has no `validation_step`, which validate needs"),
        ("validate", ["val_dataloader"], r"validate has no data: pass dataloaders=, or give Lacking .*a `val_dataloader`"),
        ("test", ["test_step"], r"Lacking has no `test_step`, which test needs"),
        ("test", ["test_dataloader"], r"test has no data: pass dataloaders=, or give Lacking .*a `test_dataloader`"),
        ("predict", ["predict_dataloader"], r"no data to predict: pass dataloaders=.*a `predict_dataloader`"),
    ],
)
def test_a_method_that_is_missing(verb: str, names: list[str], said: str) -> None:
    with pytest.raises(MissingMethod, match=said) as caught:
        getattr(trainer(), verb)(without(*names))
    assert isinstance(caught.value, MisconfigurationException)


def test_a_step_under_another_name_is_suggested() -> None:
    module = type(
        "Lacking", (BoringModel,), {"training_step": LightningModule.training_step, "train_step": lambda self, b: None}
    )()
    with pytest.raises(UnknownName, match=r"Lacking\.train_step is no hook.*Did you mean 'training_step'"):
        trainer().fit(module)


# Loaders


NO_LOADERS: dict[str, tuple[Any, str]] = {
    "int": (3, "3 (int), which is no loader"),
    "str": ("abc", "'abc' (str), which is no loader"),
    "tensor": (torch.zeros(4, 32), "a tensor of shape (4, 32), which is no loader"),
    "dataset": (
        TensorDataset(torch.zeros(4, 32)),
        "a dataset (TensorDataset) and not a loader. Wrap it: DataLoader(dataset, batch_size=",
    ),
    "class": (DataLoader, "which is no loader"),
    "module": (nn.Linear(2, 2), "which is no loader"),
    "list of batches": (
        [torch.zeros(1, 32)] * 3,
        "a list of batches, and a list is read as several loaders. Wrap the batches in a loader",
    ),
    "list of pairs": ([(torch.zeros(1, 32), torch.zeros(1))] * 3, "a list of batches"),
    "list of dicts": ([{"x": torch.zeros(1, 32)}] * 3, "a list of batches"),
    "list of None": ([None], "None (NoneType), which is no loader"),
    "dict of ints": ({"a": 3}, "3 (int), which is no loader"),
}


@pytest.mark.parametrize("verb", ["fit", "fit val", "validate", "test", "predict"])
@pytest.mark.parametrize("kind", NO_LOADERS)
def test_what_is_no_loader(verb: str, kind: str) -> None:
    given, said = NO_LOADERS[kind]
    with pytest.raises(InvalidLoader) as caught:
        run(verb, given)
    assert said in str(caught.value)
    assert isinstance(caught.value, TypeError)


def run(verb: str, loader: Any, **options: Any) -> None:
    if verb == "fit val":
        trainer(**options).fit(BoringModel(), val_dataloaders=loader)
    else:
        getattr(trainer(**options), verb)(BoringModel(), loader)


VERBS = ["fit", "fit val", "validate", "test", "predict"]
EMPTY: dict[str, Function[[], Any]] = {
    "no samples": lambda: DataLoader([]),  # type: ignore[arg-type]
    "drop_last": lambda: DataLoader(TensorDataset(torch.zeros(2, 32)), batch_size=4, drop_last=True),
    "iterable": lambda: DataLoader(Stream(()), batch_size=None),
    "iterator": lambda: iter(()),
}


@pytest.mark.parametrize(
    ("verb", "kind"),
    # predict reads what drop_last leaves out
    [(verb, kind) for kind in EMPTY for verb in VERBS if (verb, kind) != ("predict", "drop_last")],
)
def test_a_loader_without_a_batch(verb: str, kind: str) -> None:
    with pytest.raises(EmptyLoader, match=r"has no batch|yielded no batch"):
        run(
            verb, EMPTY[kind](), limit_train_batches=1.0, limit_val_batches=1.0, limit_test_batches=1.0, limit_predict_batches=1.0
        )


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_no_loader_in_a_list(verb: str) -> None:
    with pytest.raises(EmptyLoader, match=r"has no batch|no loader at all: None, or an empty list"):
        run(verb, [])


@pytest.mark.parametrize("name", ["test_dataloader", "predict_dataloader", "val_dataloader"])
def test_a_loader_method_that_returns_nothing(name: str) -> None:
    module = type("Lacking", (BoringModel,), {name: lambda self: None})()
    verb = {"test": "test", "predict": "predict", "val": "validate"}[name.split("_")[0]]
    with pytest.raises(EmptyLoader, match=rf"Lacking\.{name}\(\) returned no loader at all"):
        getattr(trainer(), verb)(module)


def test_a_training_loader_method_that_returns_nothing() -> None:
    module = type("Lacking", (BoringModel,), {"train_dataloader": lambda self: None})()
    with pytest.raises(InvalidLoader, match=r"Lacking\.train_dataloader\(\) returned None\. Expected a loader"):
        trainer().fit(module)


def test_a_share_that_leaves_no_batch() -> None:
    with pytest.raises(
        InvalidOption, match=r"limit_train_batches=0\.1 cannot be used.*at least one of the 4 batches \(0\.25 or more\)"
    ):
        run("fit", random_batches(4), limit_train_batches=0.1)


def test_a_share_of_an_unknown_length() -> None:
    loader = DataLoader(Stream(()), batch_size=None)
    with pytest.raises(InvalidOption, match="does not tell its length"):
        run("fit", loader, limit_train_batches=0.5)
    with pytest.raises(InvalidOption, match=r"val_check_interval=0.5"):
        run("fit", loader, limit_train_batches=1.0, val_check_interval=0.5)


@pytest.mark.parametrize("given", [3, "data", BoringDataModule, DataLoader([torch.zeros(32)])])  # type: ignore[arg-type]
def test_what_is_no_datamodule(given: Any) -> None:
    for verb in ("fit", "validate", "test", "predict"):
        with pytest.raises(InvalidType, match=r"datamodule=.*expected a leyden\.LightningDataModule"):
            getattr(trainer(), verb)(BoringModel(), datamodule=given)


# What steps and hooks return


def returning(name: str, value: Any) -> Any:
    return type("Odd", (BoringModel,), {name: lambda self, *args: value(self, *args) if callable(value) else value})()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("x", "returned str. Return the loss as a tensor, a dict with the key 'loss', or None"),
        (1.0, "returned float"),
        ([1.0], "returned list"),
        ({"a": 1}, "returned a dict without the key 'loss' (its keys: ['a'])"),
        ({"loss": 1.0}, "returned float under 'loss'. It must be a tensor"),
        (
            lambda self, batch, i: self(batch).squeeze(),
            "returned a loss of shape (2,), and only a single value can be differentiated",
        ),
        (lambda self, batch, i: self.step(batch).detach(), "returned a loss without a gradient: it was detached"),
    ],
)
def test_what_training_step_may_not_return(value: Any, said: str) -> None:
    with pytest.raises(InvalidReturn) as caught:
        trainer().fit(returning("training_step", value))
    assert said in str(caught.value)
    assert "Odd.training_step" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)


def test_an_error_of_backward_is_the_user_s_own() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            raise RuntimeError("as it happens")

    module = returning("training_step", lambda self, batch, i: Broken.apply(self.step(batch)))  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="as it happens") as caught:
        trainer().fit(module)
    assert not isinstance(caught.value, LeydenError)


def sgd(self: Any) -> Any:
    return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("adam", "returned str, which cannot be used. Expected one of: an optimizer"),
        (
            torch.optim.SGD,
            "returned the class SGD itself, which cannot be used. Make an instance of it: return SGD(self.parameters()",
        ),
        (lambda self: ([sgd(self)], [torch.optim.lr_scheduler.StepLR]), "returned the class StepLR itself as a scheduler"),
        ([3], "returned ['int']"),
        (lambda self: [sgd(self)] * 2, "returned 2 optimizers, and automatic optimization steps one"),
        (lambda self: {"lr_scheduler": 3}, "without the key 'optimizer'"),
        (lambda self: ([sgd(self)], [3]), "returned int as a scheduler"),
        (lambda self: ([sgd(self)], [{"interval": "epoch"}]), "needs the key 'scheduler'"),
        (
            lambda self: ([o := sgd(self)], [{"scheduler": torch.optim.lr_scheduler.StepLR(o, 1), "interval": "batch"}]),
            'has interval=\'batch\'. Expected "epoch" or "step"',
        ),
        (
            lambda self: ([o := sgd(self)], [{"scheduler": torch.optim.lr_scheduler.StepLR(o, 1), "frequency": 0}]),
            "has frequency=0. Expected a whole number >= 1",
        ),
        (lambda self: ([sgd(self)], [torch.optim.lr_scheduler.StepLR(sgd(self), 1)]), "for an optimizer that it did not return"),
    ],
)
def test_what_configure_optimizers_may_not_return(value: Any, said: str) -> None:
    made = type("Odd", (BoringModel,), {"configure_optimizers": lambda self: value(self) if inspect.isfunction(value) else value})
    with pytest.raises(InvalidReturn) as caught:
        trainer().fit(made())
    assert said in str(caught.value)


def test_what_configure_callbacks_may_not_return() -> None:
    with pytest.raises(InvalidType, match=r"configure_callbacks\(\)=3 cannot be used: expected a leyden\.Callback"):
        trainer().fit(returning("configure_callbacks", 3))


@pytest.mark.parametrize(
    ("base", "name", "signature", "said"),
    [
        (BoringModel, "on_train_end", "self, outputs", "requires 1 arguments, and the hook has 0 to give"),
        (BoringModel, "training_step", "self, batch, batch_idx, more", "requires 3 arguments, and the hook has 2 to give"),
        (BoringModel, "validation_step", "self, batch, batch_idx, dataloader_idx, more", "requires 4 arguments"),
        (BoringModel, "on_train_start", "self, *, why", "requires the keyword argument 'why'"),
        (BoringModel, "train_dataloader", "self, batch_size", "requires 1 arguments, and the hook has 0 to give"),
        (Callback, "on_train_end", "self, trainer, pl_module, outputs", "requires 3 arguments, and the hook has 2 to give"),
    ],
)
def test_a_hook_that_requires_more_than_there_is(base: Any, name: str, signature: str, said: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def {name}({signature}): pass", space)  # the signature is what is tested
    part = type("Odd", (base,), {name: space[name]})()
    module, callbacks = (BoringModel(), part) if base is Callback else (part, None)
    with pytest.raises(InvalidReturn, match=said) as caught:
        trainer(callbacks=callbacks).fit(module)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (lambda self: self.log("x", "y"), "got str. What can be logged: a tensor with one element"),
        (lambda self: self.log("x", torch.zeros(3)), "got a tensor of shape (3,). Only single values can be logged"),
        (lambda self: self.log("x", {"a": 1}), "Use self.log_dict for several values"),
        (lambda self: self.log(3, 1.0), "a metric's name must be a string"),
        (lambda self: self.log_dict([1]), "log_dict needs a mapping"),
        (lambda self: self.log("x", 1.0, reduce_fx="median"), "reduce_fx must be one of mean"),
        (lambda self: self.log("x", 1.0, on_step=False, on_epoch=False), "would log nothing"),
        (lambda self: self.log("x", 1.0, on_epoch="no"), "on_epoch='no'): on_epoch must be True, False or None"),
        (lambda self: self.log("x", 1.0, prog_bar=3), "prog_bar must be True, False or None"),
    ],
)
def test_what_may_not_be_logged(log: Any, said: str) -> None:
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        log(self)
        return self.step(batch)

    with pytest.raises(IllegalLog) as caught:
        trainer().fit(type("Odd", (BoringModel,), {"training_step": training_step})())
    assert said in str(caught.value)
    assert isinstance(caught.value, ValueError)


# What is not trained


def test_an_optimizer_of_another_model_is_doubted() -> None:
    other = nn.Linear(2, 2)
    with pytest.warns(PossibleUserWarning, match="No optimizer that configure_optimizers returned has a parameter of Odd"):
        trainer().fit(returning("configure_optimizers", lambda self: sgd(other)))
    image = torch.zeros(1, 2, requires_grad=True)  # what is trained, through a network that is not
    module = returning("configure_optimizers", lambda self: torch.optim.SGD([image], lr=0.1))
    module.training_step = lambda batch, batch_idx: (module(batch) + image).mean()
    trainer().fit(module.requires_grad_(False))


class InLists(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = [nn.Linear(2, 2)]
        self.heads = {"a": nn.Linear(2, 2)}
        self.others = (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False), self.layer, "x")


def test_layers_in_lists_are_doubted_unless_they_are_trained_or_frozen() -> None:
    with pytest.warns(PossibleUserWarning) as caught:
        trainer().fit(InLists())
    said = [str(each.message) for each in caught if "into which torch does not look" in str(each.message)]
    assert [text.partition(",")[0] for text in said] == [
        "InLists.blocks is a list of layers",
        "InLists.heads is a dict of layers",
    ]
    assert "nn.ModuleList" in said[0]
    assert "nn.ModuleDict" in said[1]
    module = InLists()
    module.configure_optimizers = lambda: torch.optim.SGD(  # type: ignore[method-assign]  # as a program may
        [*module.parameters(), *module.blocks[0].parameters(), *module.heads["a"].parameters()], lr=0.1
    )
    trainer().fit(module)


# Monitors and checkpoints


@pytest.mark.parametrize("kind", [EarlyStopping, lambda monitor: ModelCheckpoint(monitor=monitor)])
def test_a_monitor_that_was_never_logged(kind: Any) -> None:
    with pytest.raises(
        MissingMonitor, match=r"monitors 'loss_val', which was not logged.*Call self\.log\('loss_val', value\)"
    ) as caught:
        trainer(callbacks=kind("loss_val"), enable_checkpointing=True).fit(BoringModel())
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, KeyError)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    run = trainer()
    run.fit(BoringModel())
    run.save_checkpoint(tmp_path / "good.ckpt")
    return tmp_path / "good.ckpt"


def damaged(file: Path, kind: str) -> Path:
    content, bad = file.read_bytes(), file.with_name(f"{kind}.ckpt")
    if kind == "missing":
        return bad
    if kind == "folder":
        bad.mkdir()
    elif kind == "pickle":
        torch.save({"state_dict": {}, "odd": Path("x")}, bad)
    elif kind == "other zip":
        torch.save({"weights": torch.zeros(1)}, bad)
    else:
        half = len(content) // 2
        bad.write_bytes(
            {
                "truncated": content[:half],
                "empty": b"",
                "text": b"hello",
                "flipped": content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :],
            }[kind]
        )
    return bad


@pytest.mark.parametrize("verb", ["fit", "test", "load"])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("missing", CheckpointMissing),
        ("folder", CheckpointForeign),
        ("truncated", CheckpointDamaged),
        ("empty", CheckpointDamaged),
        ("text", (CheckpointDamaged, CheckpointForeign)),
        ("flipped", CheckpointDamaged),
        ("pickle", CheckpointForeign),
        ("other zip", CheckpointForeign),
    ],
)
def test_a_checkpoint_that_cannot_be_used(written: Path, verb: str, kind: str, error: Any) -> None:
    bad = damaged(written, kind)
    verbs: dict[str, Function[[], Any]] = {
        "load": lambda: BoringModel.load_from_checkpoint(bad),
        "fit": lambda: trainer().fit(BoringModel(), ckpt_path=bad),
        "test": lambda: trainer().test(BoringModel(), ckpt_path=bad),
    }
    with pytest.raises(error, match=bad.name) as caught:
        verbs[verb]()
    assert isinstance(caught.value, LeydenError)
    assert isinstance(caught.value, FileNotFoundError if kind == "missing" else RuntimeError)


def test_a_checkpoint_of_another_module(written: Path) -> None:
    class Other(BoringModel):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 3)

    with pytest.raises(CheckpointMismatch, match=r"do not fit Other"):
        trainer().test(Other(), ckpt_path=written)


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_the_best_checkpoint_where_there_is_none(verb: str) -> None:
    with pytest.raises(
        CheckpointMissing, match=r"ckpt_path='best' was asked for, and there is none.*Fit first, or pass a path"
    ) as caught:
        getattr(trainer(), verb)(BoringModel(), ckpt_path="best")
    assert isinstance(caught.value, ValueError)


def test_checkpoint_sources_that_are_not_offered() -> None:
    for asked in ("registry",):
        with pytest.raises(Unsupported, match=rf"ckpt_path='{asked}' is not offered\. Use 'last'"):
            trainer().fit(BoringModel(), ckpt_path=asked)


# Afterwards everything is usable


def test_a_verb_inside_a_hook() -> None:
    class Nested(BoringModel):
        def on_train_start(self) -> None:
            self.trainer.fit(BoringModel())

    with pytest.raises(ConflictingOptions, match=r"trainer\.fit was called while trainer\.fit is running. Use another Trainer"):
        trainer().fit(Nested())


def test_another_trainer_inside_a_hook() -> None:
    class Nested(BoringModel):
        def on_train_start(self) -> None:
            self.inner = trainer().fit(BoringModel()).steps

    module, run = Nested(), trainer()
    assert run.fit(module).steps == module.inner == 2
    assert module.trainer is run


FAILURES: dict[str, Function[[Trainer], Any]] = {
    "a step": lambda run: run.fit(returning("training_step", "x")),
    "a loader": lambda run: run.fit(BoringModel(), 3),
    "a method": lambda run: run.fit(without("training_step")),
    "a name": lambda run: run.fit(returning("on_train_epoch_ends", None)),
    "a model": lambda run: run.fit(3),  # type: ignore[arg-type]
    "a checkpoint": lambda run: run.fit(BoringModel(), ckpt_path="none.ckpt"),
    "optimizers": lambda run: run.fit(returning("configure_optimizers", "x")),
    "callbacks": lambda run: run.fit(returning("configure_callbacks", 3)),
    "a test": lambda run: run.test(BoringModel(), 3),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_after_a_failure_the_same_trainer_works(failure: str) -> None:
    seen = Recorder()
    run = trainer(callbacks=[seen, Timer("00:01:00:00")])
    before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), os.getcwd(), torch.get_default_dtype())
    with pytest.raises(LeydenError):
        FAILURES[failure](run)
    assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), os.getcwd(), torch.get_default_dtype()) == before
    started, ended = seen.names.count("setup"), seen.names.count("teardown")
    assert ended >= started  # what was started is ended
    result = run.fit(BoringModel())
    assert (result.status, result.steps) == ("finished", 2)
    assert len(run.test(verbose=False)) == 1
    assert trainer().fit(BoringModel()).steps == 2


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("given", [5, True, [], b"x.ckpt"])
def test_a_checkpoint_path_is_text(verb: str, given: Any) -> None:
    with pytest.raises(InvalidType, match="ckpt_path="):
        getattr(trainer(), verb)(BoringModel(), random_batches(1), ckpt_path=given)


@pytest.mark.parametrize("given", [5, None, b"x.ckpt"])
def test_load_from_checkpoint_wants_a_path_or_a_file(given: Any) -> None:
    with pytest.raises(InvalidType, match="checkpoint_path="):
        BoringModel.load_from_checkpoint(given)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("state_dict", None),
        ("state_dict", 5),
        ("leyden", 5),
        ("callbacks", "x"),
        ("optimizer_states", 5),
        ("lr_schedulers", {}),
    ],
)
def test_a_checkpoint_with_a_part_of_another_kind_is_foreign(own_folder: Path, part: str, value: Any) -> None:
    model = BoringModel()
    torch.save({"state_dict": model.state_dict(), part: value}, "made-by-hand.ckpt")
    with pytest.raises(CheckpointForeign, match=f"its '{part}' is {type(value).__name__}"):
        BoringModel.load_from_checkpoint("made-by-hand.ckpt")
    with pytest.raises(CheckpointForeign, match=f"its '{part}' is {type(value).__name__}"):
        trainer().fit(model, random_batches(1), ckpt_path="made-by-hand.ckpt")


def test_a_callbacks_state_that_is_no_dict_is_refused(own_folder: Path) -> None:
    class Counts(Callback):
        def state_dict(self) -> Any:
            return [1, 2]

    with pytest.raises(InvalidReturn, match=r"Counts.state_dict\(\) returned list"):
        trainer(enable_checkpointing=True, callbacks=[Counts()]).fit(BoringModel(), random_batches(1))


def test_a_switch_that_is_a_tensor_is_refused() -> None:
    with pytest.raises(InvalidType, match="inference_mode="):
        Trainer(inference_mode=torch.ones(2))  # type: ignore[arg-type]  # the mistake under test


def test_console_keywords_and_sub_folders_have_their_types() -> None:
    with pytest.raises(InvalidType, match="console_kwargs="):
        RichProgressBar(console_kwargs="stderr")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(InvalidType, match="sub_dir="):
        leyden.loggers.TensorBoardLogger(".", sub_dir=5)  # type: ignore[arg-type]  # the mistake under test


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[leyden.Trainer, Path]:
    run = kit.fit(BoringModel(), limit_train_batches=1, limit_val_batches=0)
    run.save_checkpoint(path := tmp_path_factory.mktemp("saved") / "a.ckpt")
    return run, path


@pytest.mark.parametrize(
    ("keywords", "error", "said"),
    [
        ({"map_location": "gpux"}, InvalidOption, "map_location='gpux' cannot be used: expected a device such as 'cpu'"),
        ({"map_location": 3}, InvalidType, "map_location=3 cannot be used"),
        ({"strict": "no"}, InvalidType, "strict='no' cannot be used: expected True or False"),
        ({"weights_only": "no"}, InvalidType, "weights_only='no' cannot be used: expected True or False"),
    ],
)
def test_words_of_load_from_checkpoint(saved: Any, keywords: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=f"^{said}"):
        BoringModel.load_from_checkpoint(saved[1], **keywords)


def test_load_from_checkpoint_of_the_base_class_asks_for_the_class(saved: Any) -> None:
    with pytest.raises(MissingModel, match="call load_from_checkpoint of that class"):
        LightningModule.load_from_checkpoint(saved[1])


@pytest.mark.parametrize(
    ("given", "error"), [(None, InvalidType), (3, InvalidType), ("", InvalidOption), ("a\0b", InvalidOption)]
)
def test_a_checkpoint_is_saved_under_a_path(saved: Any, given: Any, error: Any) -> None:
    with pytest.raises(error, match=r"^filepath=.*expected a path or an URL"):
        saved[0].save_checkpoint(given)
    with pytest.raises(InvalidType, match=r"^weights_only='no'"):
        saved[0].save_checkpoint("a.ckpt", weights_only="no")


def test_a_misspelt_word_of_an_export_is_named() -> None:
    with pytest.raises(UnknownName, match=r"to_onnx got an unknown argument 'opset_versio'\. Did you mean 'opset_version'"):
        BoringModel().to_onnx("a.onnx", torch.zeros(1, 32), opset_versio=18)
    for method, word in (("script", "optimise"), ("trace", "check_traces")):
        with pytest.raises(UnknownName, match=rf"to_torchscript got an unknown argument '{word}'\. Did you mean"):
            BoringModel().to_torchscript(None, method, torch.zeros(1, 32), **{word: True})  # type: ignore[arg-type]


# From process to process

OF_SEVERAL_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "InvalidOption": ("lr", -1, "a number > 0"),
    "InvalidType": ("lr", "x", "a number"),
    "MissingPackage": ("rich", "RichProgressBar", "rich"),
    "TrainingSpikeException": (7, "more"),
    "ProcessFailed": ("process 1 was ended", 1, 137),
    "TrainingTerminated": ("SIGTERM arrived", 15),
}


def all_of(kind: type[LeydenError]) -> list[type[LeydenError]]:
    return [kind, *(each for sub in kind.__subclasses__() for each in all_of(sub))]


def test_every_error_comes_whole_out_of_another_process() -> None:
    ours = [kind for kind in all_of(LeydenError) if kind.__module__ == "leyden.errors"]
    assert len(ours) > 30
    for kind in ours:
        error = kind(*OF_SEVERAL_ARGUMENTS.get(kind.__name__, (f"what {kind.__name__} says",)))
        error.noted = [1]  # type: ignore[attr-defined]  # by whoever raised it
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is kind
        assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))
        assert getattr(back, "code", None) == getattr(error, "code", None)
