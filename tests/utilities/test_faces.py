"""Names where Lightning's documents put them: each is there, or says what to take instead."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import pkgutil
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit import in_a_fresh_process
from torch import nn

import leyden
from leyden import notices
from leyden.data.workers import suggested_max_num_workers
from leyden.errors import InvalidOption, NotOffered, TrainingTerminated, UnknownName
from leyden.not_offered import NOT_OFFERED
from leyden.strategies import SingleDeviceStrategy
from leyden.testing import BoringModel
from leyden.utilities import (
    AttributeDict,
    GradClipAlgorithmType,
    PossibleUserWarning,
    disable_possible_user_warnings,
    find_shared_parameters,
    grad_norm,
    is_picklable,
    is_shared_filesystem,
    measure_flops,
    set_shared_parameters,
)
from leyden.utilities.memory import garbage_collection_cuda, is_oom_error, recursive_detach
from leyden.utilities.parsing import get_init_args


@pytest.fixture(autouse=True)
def notices_are_told() -> Iterator[None]:
    """What importing an old address leaves to be said is not for the next test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        notices.tell()


PLACES = [
    "leyden.callbacks:Callback",
    "leyden.callbacks:ModelCheckpoint",
    "leyden.callbacks:EarlyStopping",
    "leyden.callbacks:LearningRateMonitor",
    "leyden.callbacks:ProgressBar",
    "leyden.callbacks:TQDMProgressBar",
    "leyden.callbacks:RichProgressBar",
    "leyden.callbacks.early_stopping:EarlyStopping",
    "leyden.callbacks.callback:Callback",
    "leyden.callbacks.gradient_accumulation_scheduler:GradientAccumulationScheduler",
    "leyden.callbacks.progress.tqdm_progress:Tqdm",
    "leyden.callbacks.progress:TQDMProgressBar",
    "leyden.callbacks.model_checkpoint:ModelCheckpoint",
    "leyden.callbacks.lr_monitor:LearningRateMonitor",
    "leyden.loggers:TensorBoardLogger",
    "leyden.loggers:CSVLogger",
    "leyden.loggers.csv_logs:CSVLogger",
    "leyden.callbacks.rich_model_summary:RichModelSummary",
    "leyden.profilers.profiler:Profiler",
    "leyden.loggers.logger:Logger",
    "leyden.loggers.logger:rank_zero_experiment",
    "leyden.loggers.tensorboard:TensorBoardLogger",
    "leyden:LightningDataModule",
    "leyden:LightningModule",
    "leyden:Trainer",
    "leyden:Callback",
    "leyden:seed_everything",
    "leyden:__version__",
    "leyden:loggers",
    "leyden:callbacks",
    "leyden:tuner",
    "leyden:cli",
    "leyden:utilities",
    "leyden:core",
    "leyden.accelerators.cuda:CUDAAccelerator",
    "leyden.accelerators.cpu:CPUAccelerator",
    "leyden.accelerators.mps:MPSAccelerator",
    "leyden.accelerators:find_usable_cuda_devices",
    "leyden.accelerators.accelerator:Accelerator",
    "leyden.core:LightningModule",
    "leyden.core.module:LightningModule",
    "leyden.core.datamodule:LightningDataModule",
    "leyden.core.lightning:LightningModule",
    "leyden.core.mixins:HyperparametersMixin",
    "leyden.core.saving:get_filesystem",
    "leyden.core.mixins.hparams_mixin:HyperparametersMixin",
    "leyden.core.optimizer:LightningOptimizer",
    "leyden.trainer:Trainer",
    "leyden.trainer.trainer:Trainer",
    "leyden.trainer.states:RunningStage",
    "leyden.trainer.states:TrainerFn",
    "leyden.trainer.states:TrainerState",
    "leyden.trainer.states:TrainerStatus",
    "leyden.utilities.cloud_io:get_filesystem",
    "leyden.utilities.model_summary:summarize",
    "leyden.utilities.model_summary:ModelSummary",
    "leyden.utilities.parsing:AttributeDict",
    "leyden.utilities.parsing:get_init_args",
    "leyden.utilities.parsing:is_picklable",
    "leyden.utilities.rank_zero:rank_zero_only",
    "leyden.utilities.rank_zero:rank_zero_info",
    "leyden.utilities.types:STEP_OUTPUT",
    "leyden.utilities.types:OptimizerLRScheduler",
    "leyden.utilities.types:EVAL_DATALOADERS",
    "leyden.utilities.types:TRAIN_DATALOADERS",
    "leyden.utilities.types:LRSchedulerTypeUnion",
    "leyden.utilities.types:_PATH",
    "leyden.utilities.types:LRSchedulerConfigType",
    "leyden.utilities.types:LRSchedulerConfig",
    "leyden.utilities.exceptions:MisconfigurationException",
    "leyden.utilities.exceptions:SIGTERMException",
    "leyden.utilities.seed:isolate_rng",
    "leyden.utilities.seed:seed_everything",
    "leyden.utilities.grads:grad_norm",
    "leyden.utilities.combined_loader:CombinedLoader",
    "leyden.utilities.warnings:PossibleUserWarning",
    "leyden.utilities.enums:LightningEnum",
    "leyden.utilities.enums:GradClipAlgorithmType",
    "leyden.utilities.parameter_tying:find_shared_parameters",
    "leyden.utilities:AttributeDict",
    "leyden.utilities:CombinedLoader",
    "leyden.utilities:LightningEnum",
    "leyden.utilities:move_data_to_device",
    "leyden.utilities:rank_zero_deprecation",
    "leyden.utilities:rank_zero_warn",
    "leyden.utilities:suggested_max_num_workers",
    "leyden.utilities:MisconfigurationException",
    "leyden.utilities:measure_flops",
    "leyden.utilities:Throughput",
    "leyden.utilities.throughput:get_available_flops",
    "leyden.callbacks:BasePredictionWriter",
    "leyden.callbacks.spike:TrainingSpikeException",
    "leyden.strategies:SingleDeviceStrategy",
    "leyden.strategies:Strategy",
    "leyden.profilers:SimpleProfiler",
    "leyden.profilers:Profiler",
    "leyden.plugins:MixedPrecision",
    "leyden.plugins.io:TorchCheckpointIO",
    "leyden.plugins:AsyncCheckpointIO",
    "leyden.plugins.environments:TorchElasticEnvironment",
    "leyden.plugins.precision:DoublePrecision",
    "leyden.demos:BoringModel",
    "leyden.demos.boring_classes:BoringDataModule",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_documented_name_is_there(place: str) -> None:
    module, name = place.split(":")
    assert hasattr(importlib.import_module(module), name)


def test_the_names_are_the_things_themselves() -> None:
    from leyden.core.module import LightningModule
    from leyden.utilities.exceptions import SIGTERMException

    assert LightningModule is leyden.LightningModule
    assert SIGTERMException is TrainingTerminated
    assert leyden.utilities.seed_everything is leyden.seed_everything


def test_names_are_reached_through_the_package() -> None:
    paths = [
        "callbacks.early_stopping.EarlyStopping",
        "callbacks.model_checkpoint.ModelCheckpoint",
        "trainer.states.RunningStage.SANITY_CHECKING",
        "accelerators.cuda.CUDAAccelerator.is_available",
        "utilities.warnings.PossibleUserWarning",
        "utilities.parsing.AttributeDict",
        "utilities.exceptions.MisconfigurationException",
        "core.mixins.HyperparametersMixin",
        "core.saving.get_filesystem",
        "loggers.CSVLogger",
        "plugins.io.TorchCheckpointIO",
        "demos.boring_classes.BoringModel",
        "strategies.ddp.DDPStrategy",
    ]
    program = "; ".join(["import leyden", *(f"leyden.{path}" for path in paths)])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "name"),
    [(f"{module}_loop", "RestartStage") for module in ("fit", "evaluation", "training_epoch")]
    + [
        ("optimization.closure", "AbstractClosure"),
        ("optimization.automatic", "ClosureResult"),
        ("utilities", "check_finite_loss"),
    ],
)
def test_names_of_loops_stand_in_the_modules_of_lightning(module: str, name: str) -> None:
    assert getattr(importlib.import_module(f"leyden.loops.{module}"), name) is getattr(leyden.loops, name)
    assert operator.attrgetter(f"loops.{module}.{name}")(leyden) is getattr(leyden.loops, name)
    assert importlib.util.find_spec(f"leyden.loops.{module}") is not None
    with pytest.raises(UnknownName):
        importlib.import_module(f"leyden.loops.{module}").nobody_had_this  # noqa: B018  # asked for


def test_the_logo(capsys: pytest.CaptureFixture[str]) -> None:
    leyden.cli_lightning_logo()
    assert capsys.readouterr().out == f"\nleyden {leyden.__version__}\n\n"


def test_faces_define_nothing() -> None:
    source = Path(leyden.__file__).parent
    for room in ("utilities", "core"):
        for file in (source / room).rglob("*.py"):
            name = ".".join(file.relative_to(source.parent).with_suffix("").parts).removesuffix(".__init__")
            face = importlib.import_module(name)
            own = [n for n, v in vars(face).items() if inspect.isfunction(v) or inspect.isclass(v) if v.__module__ == name]
            assert set(own) <= {"__getattr__"}, name


NAMES = [(room, name) for room, names in NOT_OFFERED.items() for name in names]


@pytest.mark.parametrize(("room", "name"), NAMES, ids=".".join)
def test_what_is_not_offered_may_be_named(room: str, name: str) -> None:
    exec(f"from {room} import {name} as found", scope := {})
    found = scope["found"]
    assert found is getattr(importlib.import_module(room), name)
    assert hasattr(importlib.import_module(room), name)
    assert not isinstance(leyden.callbacks.Timer("00:00:01:00"), found)
    assert not issubclass(leyden.Trainer, found)
    assert {found: 1}[found] == 1
    mine = type("Mine", (found,), {"__init__": lambda self, *_: None})
    for made in (found, mine):
        with pytest.raises(
            NotOffered, match=rf"^{room}\.{name} is not offered\. {re.escape(NOT_OFFERED[room][name])}$"
        ) as caught:
            made(1, word=2)
        assert isinstance(caught.value, ImportError)


@pytest.mark.parametrize(
    ("place", "room"),
    [
        ("leyden.tuner.tuning:Tuner", "leyden.tuner"),
        ("leyden.callbacks.lr_finder:LearningRateFinder", "leyden.callbacks"),
        ("leyden.callbacks.batch_size_finder:BatchSizeFinder", "leyden.callbacks"),
        ("leyden.plugins.precision:XLAPrecision", "leyden.plugins"),
        ("leyden.plugins.io:XLACheckpointIO", "leyden.plugins"),
        ("leyden.plugins.environments:LSFEnvironment", "leyden.plugins"),
        ("leyden.demos.boring_classes:DemoModel", "leyden.demos"),
        ("leyden.demos.transformer:Transformer", "leyden.demos"),
        ("leyden.demos.boring_classes:Net", "leyden.demos"),
        ("leyden.strategies.ddp:DDPStrategy", "leyden.strategies"),
        ("leyden.loggers.wandb:WandbLogger", "leyden.loggers"),
        ("leyden.callbacks.gpu_stats_monitor:GPUStatsMonitor", "leyden.callbacks"),
        ("leyden.callbacks.stochastic_weight_avg:StochasticWeightAveraging", "leyden.callbacks"),
        ("leyden.fabric:seed_everything", "leyden"),
        ("leyden.fabric.fabric:Fabric", "leyden"),
        ("leyden.fabric.accelerators.cuda:is_cuda_available", "leyden.utilities.device_parser"),
        ("leyden.fabric.accelerators:CUDAAccelerator", "leyden.accelerators"),
        ("leyden.fabric.loggers.logger:rank_zero_experiment", "leyden.loggers.logger"),
        ("leyden.fabric.loggers:TensorBoardLogger", "leyden.loggers"),
        ("leyden.fabric.plugins:CheckpointIO", "leyden.plugins"),
        ("leyden.fabric.plugins.environments:SLURMEnvironment", "leyden.plugins"),
        ("leyden.fabric.plugins.environments.lsf:LSFEnvironment", "leyden.plugins"),
        ("leyden.fabric.plugins.environments.slurm:SLURMEnvironment", "leyden.plugins"),
        ("leyden.fabric.plugins.io.torch_io:TorchCheckpointIO", "leyden.plugins"),
        ("leyden.fabric.plugins.precision.amp:MixedPrecision", "leyden.plugins"),
        ("leyden.fabric.strategies.fsdp:FSDPStrategy", "leyden.strategies"),
        ("leyden.fabric.utilities:rank_zero_only", "leyden.utilities"),
        ("leyden.fabric.utilities.apply_func:move_data_to_device", "leyden.utilities"),
        ("leyden.fabric.utilities.cloud_io:get_filesystem", "leyden.utilities.cloud_io"),
        ("leyden.fabric.utilities.data:AttributeDict", "leyden.utilities"),
        ("leyden.fabric.utilities.distributed:is_shared_filesystem", "leyden.utilities"),
        ("leyden.fabric.utilities.enums:LightningEnum", "leyden.utilities"),
        ("leyden.fabric.utilities.exceptions:MisconfigurationException", "leyden.utilities"),
        ("leyden.fabric.utilities.logger:_add_prefix", "leyden.loggers.utilities"),
        ("leyden.fabric.utilities.rank_zero:rank_zero_info", "leyden.utilities"),
        ("leyden.fabric.utilities.seed:seed_everything", "leyden"),
        ("leyden.fabric.utilities.spike:TrainingSpikeException", "leyden.errors"),
        ("leyden.fabric.utilities.throughput:Throughput", "leyden.utilities"),
        ("leyden.fabric.utilities.throughput:ThroughputMonitor", "leyden.utilities"),
        ("leyden.fabric.utilities.types:_DEVICE", "leyden.utilities.types"),
        ("leyden.fabric.utilities.warnings:PossibleUserWarning", "leyden.utilities"),
    ],
)
def test_it_is_the_same_wherever_lightning_has_it(place: str, room: str) -> None:
    module, name = place.split(":")
    assert getattr(importlib.import_module(module), name) is getattr(importlib.import_module(room), name)


ROOMS = sorted({*NOT_OFFERED, "leyden.core", "leyden.trainer", "leyden.metrics", "leyden.plugins.io"})


@pytest.mark.parametrize("room", ROOMS)
@given(name=st.from_regex(r"[A-Za-z]\w{0,12}", fullmatch=True))
def test_a_name_that_nobody_had_is_not_there(room: str, name: str) -> None:
    module = importlib.import_module(room)
    if name not in dir(module) and name not in NOT_OFFERED.get(room, ()):
        assert not hasattr(module, f"{name}Qqq")


@pytest.mark.parametrize(
    "place",
    [
        "utilities.apply_func:move_data_to_device",
        "utilities.cloud_io:load",
        "utilities.model_helpers:is_overridden",
        "utilities.argparse:add_argparse_args",
        "utilities.argparse:from_argparse_args",
        "profiler:SimpleProfiler",
        "trainer.supporters:CombinedLoader",
        "metrics:Metric",
        "metrics.functional:accuracy",
        "strategies.ddp:DDPStrategy",
        "callbacks:ProgressBarBase",
        "callbacks:LearningRateLogger",
        "callbacks:GPUStatsMonitor",
        "loggers:LoggerCollection",
        "plugins:NativeMixedPrecisionPlugin",
        "plugins:SingleDevicePlugin",
        "accelerators:GPUAccelerator",
        "callbacks.lr_logger:LearningRateLogger",
        "callbacks.progress:ProgressBarBase",
        "callbacks.progress.base:ProgressBarBase",
        "profiler.base:BaseProfiler",
        "plugins.precision:MixedPrecisionPlugin",
        "plugins.precision:PrecisionPlugin",
        "strategies.strategy:Strategy",
        "strategies.single_device:SingleDeviceStrategy",
        "trainer:seed_everything",
        "utilities.types:EPOCH_OUTPUT",
        "utilities.cli:MODEL_REGISTRY",
        "utilities.model_summary:get_formatted_model_size",
        "strategies.xla:XLAStrategy",
        "strategies.single_xla:SingleDeviceXLAStrategy",
        "plugins:FSDPMixedPrecisionPlugin",
        "plugins:HPUCheckpointIO",
        "plugins.precision:XLAPrecisionPlugin",
        "utilities.types:_EVALUATE_OUTPUT",
        "utilities.types:_PREDICT_OUTPUT",
        "utilities.types:LRSchedulerTypeTuple",
        "utilities.model_summary.model_summary:LEFTOVER_PARAMS_NAME",
        "utilities.model_summary.model_summary:NOT_APPLICABLE",
        "utilities.warnings:rank_zero_warn",
        "plugins.io.checkpoint_plugin:CheckpointIO",
        "plugins.io.torch_plugin:TorchCheckpointIO",
        "plugins.io.async_plugin:AsyncCheckpointIO",
        "plugins.io.xla_plugin:XLACheckpointIO",
        "plugins.precision.amp:MixedPrecision",
        "plugins.precision.double:DoublePrecision",
        "plugins.precision.half:HalfPrecision",
        "plugins.precision.precision:Precision",
        "plugins.precision.fsdp:FSDPPrecision",
        "plugins.precision.xla:XLAPrecision",
        "plugins.precision.deepspeed:DeepSpeedPrecision",
        "plugins.precision.bitsandbytes:BitsandbytesPrecision",
        "plugins.precision.transformer_engine:TransformerEnginePrecision",
        "plugins.layer_sync:TorchSyncBatchNorm",
        "accelerators.xla:XLAAccelerator",
        "accelerators.cpu:get_cpu_stats",
        "accelerators.mps:get_device_stats",
        "accelerators.cuda:get_nvidia_gpu_stats",
        "demos.transformer:LightningTransformer",
        "demos.lstm:LightningLSTM",
        "demos.mnist_datamodule:MNISTDataModule",
        "loggers.litlogger:LitLogger",
        "profilers.xla:XLAProfiler",
        "logging.test_tube:TestTubeLogger",
        "core.step_result:EvalResult",
        "core.step_result:Result",
        "core.saving:ModelIO",
        "core.decorators:auto_move_data",
        "core.memory:get_memory_profile",
        "core.memory:get_gpu_memory_map",
        "core.memory:get_human_readable_count",
        "utilities:FLOAT16_EPSILON",
        "core.optimizer:do_nothing_closure",
        "trainer.seed:seed_everything",
        "trainer.training_io:TrainerIOMixin",
        "testing:LightningTestModel",
        "loops:FitLoop",
        "overrides.distributed:UnrepeatedDistributedSampler",
        "utilities.arg_parse:add_default_args",
        "utilities.imports:_package_available",
        "utilities.imports:_RICH_AVAILABLE",
        "utilities.cli:LightningCLI",
        "utilities.device_parser:parse_gpu_ids",
        "utilities.enums:GradClipAlgorithmType",
        "utilities.deepspeed:convert_zero_checkpoint_to_fp32_state_dict",
        "utilities.migration.utils:migrate_checkpoint",
        "utilities.model_registry:download_model_from_registry",
        "utilities.model_summary.model_summary:get_formatted_model_size",
        "utilities.model_summary.model_summary_deepspeed:DeepSpeedSummary",
        "utilities.model_helpers:get_torchvision_model",
        "utilities.types:DistributedDataParallel",
        "callbacks.timer:Interval",
        "callbacks.progress.progress_bar:get_standard_metrics",
        "callbacks.progress.tqdm_progress:convert_inf",
        "accelerators.gpu:GPUAccelerator",
        "callbacks.progress.progress:ProgressBar",
        "cli:MODEL_REGISTRY",
        "core.memory:garbage_collection_cuda",
        "lite:LightningLite",
        "loggers.test_tube:TestTubeLogger",
        "loops.base:Loop",
        "loops.dataloader.evaluation_loop:EvaluationLoop",
        "loops.epoch.training_epoch_loop:TrainingEpochLoop",
        "loops.fit_loop:_FitLoop",
        "metrics.classification:Accuracy",
        "metrics.functional.classification:accuracy",
        "metrics.metric:Metric",
        "overrides.data_parallel:LightningDistributedDataParallel",
        "plugins.environments.lightning_environment:LightningEnvironment",
        "plugins.precision.native_amp:NativeMixedPrecisionPlugin",
        "plugins.training_type.ddp:DDPPlugin",
        "plugins.training_type:TrainingTypePlugin",
        "profiler.simple:SimpleProfiler",
        "strategies.ddp_spawn:DDPSpawnStrategy",
        "strategies.fully_sharded_native:DDPFullyShardedNativeStrategy",
        "utilities.argparse_utils:from_argparse_args",
        "utilities.data:has_len",
        "utilities.distributed:ReduceOp",
        "utilities.distributed:sync_ddp_if_available",
        "utilities.enums:DistributedType",
        "utilities.finite_checks:detect_nan_parameters",
        "utilities.imports:_TORCH_GREATER_EQUAL_1_10",
        "utilities.metrics:metrics_to_scalars",
        "utilities.model_utils:is_overridden",
        "utilities.types:_LRScheduler",
        "utilities.warnings:WarningCache",
        "utilities:AMPType",
        "utilities:NATIVE_AMP_AVAILABLE",
        "utilities:FAIRSCALE_PIPE_AVAILABLE",
        "utilities.logger:_convert_params",
        "utilities.logger:_flatten_dict",
        "utilities.logger:_sanitize_params",
        "plugins.ddp_sequential_plugin:DDPSequentialPlugin",
    ],
)
def test_import_paths_of_1_x(place: str) -> None:
    module, name = place.split(":")
    if module.startswith("metrics"):
        pytest.importorskip("torchmetrics")
    assert getattr(importlib.import_module(f"leyden.{module}"), name) is not None


def test_the_logger_that_programs_of_2020_began_with(caplog: pytest.LogCaptureFixture) -> None:
    from leyden import _logger as log

    with caplog.at_level("INFO", logger="leyden"):
        log.info("Training data loader called.")
    assert [(record.name, record.message) for record in caplog.records] == [("leyden", "Training data loader called.")]


def test_1_x_s_load_reads_a_checkpoint(tmp_path: Path) -> None:
    from leyden.utilities.cloud_io import load

    trainer = leyden.Trainer(fast_dev_run=True, enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    assert "state_dict" in load(str(tmp_path / "x.ckpt"), map_location="cpu")


@pytest.mark.parametrize(
    ("module", "name", "meant"),
    [
        ("leyden.utilities", "rank_zero_onyl", "rank_zero_only"),
        ("leyden.plugins", "MixedPrecison", "MixedPrecision"),
        ("leyden.strategies", "SingleDevice", "SingleDeviceStrategy"),
        ("leyden.core", "LightingModule", "LightningModule"),
        ("leyden.trainer", "Trainr", "Trainer"),
    ],
)
def test_a_misspelt_name_of_a_face(module: str, name: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=rf"{module} has no '{name}'\. Did you mean '{meant}'\?"):
        getattr(importlib.import_module(module), name)
    assert not hasattr(importlib.import_module(module), "__path_of_nothing__")


# The small functions behind them


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.second.weight = self.first.weight
        self.inner = nn.Sequential(self.other)


def test_shared_parameters_are_found_and_tied_again() -> None:
    module = Tied()
    found = find_shared_parameters(module)
    assert found == [["first.weight", "second.weight"], ["other.weight", "inner.0.weight"], ["other.bias", "inner.0.bias"]]
    module.second.weight = nn.Parameter(torch.zeros(2, 2))
    assert set_shared_parameters(module, found) is module
    assert module.second.weight is module.first.weight
    assert find_shared_parameters(nn.Linear(2, 2)) == []


def test_norms_of_gradients() -> None:
    module = nn.Linear(1, 1)
    assert grad_norm(module, 2) == {}
    module.weight.grad, module.bias.grad = torch.tensor([[3.0]]), torch.tensor([-4.0])
    norms = {name: float(value) for name, value in grad_norm(module, 2).items()}
    assert norms == {"grad_2.0_norm/weight": 3.0, "grad_2.0_norm/bias": 4.0, "grad_2.0_norm_total": 5.0}
    with pytest.raises(InvalidOption, match="norm_type=0"):
        grad_norm(module, 0)


def test_ways_of_clipping() -> None:
    assert GradClipAlgorithmType.NORM == "norm"
    assert GradClipAlgorithmType.supported_types() == ["value", "norm"]
    assert GradClipAlgorithmType.supported_type("value")
    assert not GradClipAlgorithmType.supported_type("mean")
    assert leyden.Trainer(gradient_clip_algorithm=GradClipAlgorithmType.VALUE).gradient_clip_algorithm == "value"


def test_what_can_be_pickled() -> None:
    assert is_picklable({"a": torch.zeros(1)})
    assert not is_picklable(lambda: None)


def test_one_process_shares_its_files_with_itself(tmp_path: Path) -> None:
    strategy = SingleDeviceStrategy()
    assert is_shared_filesystem(strategy)
    assert is_shared_filesystem(strategy, tmp_path)
    assert list(tmp_path.iterdir()) == []


class TwoProcesses:
    """Two processes on one file system, played by one."""

    world_size, global_rank = 2, 0

    def __init__(self, seen_by_all: bool) -> None:
        self.seen_by_all = seen_by_all

    def broadcast(self, obj: Any) -> Any:
        return obj

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        return decision and self.seen_by_all


def test_several_processes_ask_each_other(tmp_path: Path) -> None:
    assert is_shared_filesystem(TwoProcesses(seen_by_all=True), tmp_path)
    assert not is_shared_filesystem(TwoProcesses(seen_by_all=False), tmp_path)
    assert not is_shared_filesystem(TwoProcesses(seen_by_all=True), tmp_path / "missing")
    assert is_shared_filesystem(TwoProcesses(seen_by_all=False), "s3://bucket/folder")
    assert list(tmp_path.iterdir()) == []


def test_suggested_workers() -> None:
    assert suggested_max_num_workers(1) >= 1
    assert suggested_max_num_workers(1000) == 1
    with pytest.raises(InvalidOption, match="local_world_size=0"):
        suggested_max_num_workers(0)


def test_possible_user_warnings_are_turned_off_on_demand() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        disable_possible_user_warnings()
        warnings.warn("probably", PossibleUserWarning, stacklevel=1)


def test_errors_of_memory() -> None:
    assert is_oom_error(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert is_oom_error(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert is_oom_error(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert is_oom_error(MemoryError())
    assert not is_oom_error(RuntimeError("shape mismatch"))
    garbage_collection_cuda()


def test_detaching_recursively() -> None:
    given = {"a": torch.zeros(1, requires_grad=True), "b": [torch.zeros(1, requires_grad=True)], "c": "x"}
    detached = recursive_detach(given, to_cpu=True)
    assert not detached["a"].requires_grad
    assert not detached["b"][0].requires_grad
    assert detached["c"] == "x"
    assert given["a"].requires_grad  # type: ignore[attr-defined]


def test_operations_are_counted() -> None:
    model, x = nn.Linear(4, 3, bias=False), torch.zeros(2, 4)
    forward = measure_flops(model, lambda: model(x))
    assert forward == 2 * 2 * 4 * 3
    assert measure_flops(model, lambda: model(x), lambda y: y.sum()) == 2 * forward


def test_arguments_of_a_running_constructor() -> None:
    class Plain:
        def __init__(self, width: int, *rest: int, rate: float = 0.1, **other: int) -> None:
            super().__init__()
            frame = inspect.currentframe()
            assert frame is not None
            self.found = get_init_args(frame)

    assert Plain(3, 4, more=5).found == {"width": 3, "rate": 0.1, "more": 5}
    here = inspect.currentframe()
    assert here is not None
    assert get_init_args(here) == {}


def test_attribute_dicts() -> None:
    values = AttributeDict(a=1)
    values.b = 2
    assert (values["b"], values.a) == (2, 1)
    with pytest.raises(AttributeError, match="There is no 'c' here"):
        values.c  # noqa: B018


def test_no_name_of_any_package_raises() -> None:
    for each in pkgutil.walk_packages(leyden.__path__, "leyden."):
        if each.name in ("leyden.metrics", "leyden.metrics.functional", "leyden.__main__"):
            continue  # torchmetrics, where that is installed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(each.name)
        for name in ("nobody_had_this", "Nobody", "_nobody", "__nobody__", "NOBODY_AVAILABLE", "_NOBODY_AVAILABLE_"):
            assert not hasattr(module, name), (each.name, name)


def test_what_1_x_asked_of_packages() -> None:
    imports = importlib.import_module("leyden.utilities.imports")
    assert imports._module_available("torch.nn")
    assert not imports._module_available("no_such_package.inner")
    assert imports._compare_version("torch", operator.ge, "1.0")
    assert not imports._compare_version("no_such_package", operator.ge, "1.0")
    assert imports._TORCH_AVAILABLE
    assert not imports._NO_SUCH_PACKAGE_AVAILABLE
    assert imports._NATIVE_AMP_AVAILABLE
    assert imports._TORCH_GREATER_EQUAL_1_10
    assert not imports._TORCH_GREATER_EQUAL_99_0
    assert not hasattr(imports, "anything_else")
    with pytest.raises(leyden.errors.LeydenError, match="torchvision"):
        importlib.import_module("leyden.utilities.model_helpers").get_torchvision_model("no_such_model")


def test_ids_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = importlib.import_module("leyden.utilities.device_parser")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [parser.parse_gpu_ids(gpus) for gpus in (0, None, 2, "0, 2", [1], -1)] == [None, None, [0, 1], [0, 2], [1], [0, 1, 2]]
    assert (parser.determine_root_gpu_device([2, 1]), parser.determine_root_gpu_device(None)) == (2, None)
    assert (parser.num_cuda_devices(), parser.is_cuda_available(), parser.parse_cpu_cores("2")) == (3, True, 2)
    monkeypatch.setattr("leyden.devices.memory.get_nvidia_gpu_stats", lambda index: {"memory.used (MB)": 10.0 * index})
    memory = importlib.import_module("leyden.core.memory")
    assert memory.get_memory_profile("all") == {"gpu_0": 0.0, "gpu_1": 10.0, "gpu_2": 20.0}
    assert memory.get_memory_profile("min_max") == {"min_gpu_mem": 0.0, "max_gpu_mem": 20.0}


def test_bars_tools() -> None:
    from leyden.callbacks.progress.progress_bar import get_standard_metrics
    from leyden.callbacks.progress.tqdm_progress import convert_inf

    assert [convert_inf(each) for each in (3, None, float("inf"), float("nan"))] == [3, None, None, None]
    run = leyden.Trainer(accelerator="cpu", logger=leyden.loggers.CSVLogger(".", version=12345))
    assert get_standard_metrics(run) == {"v_num": "2345"}
    assert get_standard_metrics(leyden.Trainer(accelerator="cpu", logger=False)) == {}
    assert leyden.callbacks.timer.Interval("step") == "step"


def test_a_program_that_imports_lightning_whole() -> None:
    from leyden import pytorch

    assert pytorch.Trainer is leyden.Trainer
    assert leyden.pytorch.callbacks.Timer is leyden.callbacks.Timer
    assert leyden.fabric.utilities.seed.seed_everything is leyden.seed_everything


def test_what_fabric_has_and_the_trainer_lacks_is_named() -> None:
    assert not hasattr(leyden.fabric, "Fabrics")
    with pytest.raises(NotOffered, match=r"^leyden\.Fabric is not offered\. Train with a Trainer, or with a loop of your own"):
        leyden.fabric.Fabric(accelerator="cpu")
    with pytest.raises(ImportError, match="collect"):
        exec("from leyden.fabric.plugins import collect", {})


def test_the_rank_that_others_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    from leyden.fabric.utilities.distributed import _distributed_is_initialized
    from leyden.fabric.utilities.rank_zero import _get_rank

    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert _get_rank() is None
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert _get_rank() == 3
    assert _distributed_is_initialized() is False


def test_what_can_be_stepped() -> None:
    from leyden.fabric.utilities.types import Optimizable, Steppable

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert isinstance(optimizer, Steppable)
    assert isinstance(optimizer, Optimizable)
    assert not isinstance(torch.optim.lr_scheduler.StepLR(optimizer, 1), Optimizable)


def test_a_former_address_has_no_other_names() -> None:
    with pytest.raises(ImportError, match="DDPlugin"):
        exec("from leyden.plugins.training_type.ddp import DDPlugin", {})
    assert importlib.import_module("leyden.plugins.training_type.ddp").DDPPlugin is leyden.strategies.DDPStrategy


def test_programs_in_which_each_lightning_became_leyden_get_the_very_same_modules() -> None:
    in_a_fresh_process("""
        import leyden.pytorch as pl
        from leyden.pytorch import LightningModule, Trainer
        from leyden.pytorch.callbacks import ModelCheckpoint
        from leyden.pytorch.callbacks.early_stopping import EarlyStopping
        from leyden.pytorch.plugins.training_type.ddp import DDPPlugin
        from leyden.pytorch.utilities.types import STEP_OUTPUT
        import leyden.pytorch.loggers.csv_logs

        import leyden, leyden.callbacks.model_checkpoint as file, leyden.loggers.csv_logs, sys
        assert Trainer is pl.Trainer is leyden.Trainer
        assert pl.callbacks is leyden.callbacks and pl.__version__ == leyden.__version__
        assert file.ModelCheckpoint is ModelCheckpoint and EarlyStopping is leyden.callbacks.EarlyStopping
        assert sys.modules["leyden.pytorch.loggers.csv_logs"] is leyden.loggers.csv_logs
        assert leyden.callbacks.__spec__.name == "leyden.callbacks" == leyden.callbacks.__name__
        for wrong, said in {"leyden.pytorch.calbacks": "leyden.calbacks", "leyden.pytorch.lite.no": "leyden.lite.no"}.items():
            try:
                __import__(wrong)
            except ModuleNotFoundError as error:
                assert said in str(error), error
            else:
                raise AssertionError(wrong)
        """)
