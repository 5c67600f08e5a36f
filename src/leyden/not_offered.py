"""Names of Lightning that are not offered: they may be imported and asked for by isinstance; making one says what to do instead.

One table, by the room in which Lightning has them. A name that is offered one day leaves it.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from typing import Any, NoReturn

from leyden.errors import NotOffered, UnknownName, did_you_mean

_DEVICES = "Take DeviceStatsMonitor."
_LOGGER = (
    "Take CSVLogger, TensorBoardLogger, WandbLogger, MLFlowLogger or CometLogger, or subclass leyden.loggers.Logger: override "
    "name, version, log_metrics and log_hyperparams."
)
_UNREPEATED = "Pass a plain loader: under ddp every sample of a validation or prediction is read once."
_GONE = "Lightning has given it up too: take DDPStrategy or FSDPStrategy, or one device."
_WRAPS = "It wraps another package. Wrap the tools of PyTorch in a plug-in of your own."
_XLA = "There is no support for XLA."
_TORCHRUN = "The variables that torchrun sets cover it: take TorchElasticEnvironment."
_DEMOS = "Take BoringModel."
_HARDWARE = "There is no support for it."
_SPEED = "Take Throughput, or the callback ThroughputMonitor."
_LOOPS = "Loops are not subclassed: override the hooks of a Callback or of the module (Lightning 2 has given that up, too)."
_CLOSURES = "Override the module's optimizer_step, which is given the closure, or set automatic_optimization = False."
_RESTARTS = "Where a run goes on its checkpoint says, wherever it was cut: fit(ckpt_path=...) finishes what was begun."
_RESULTS = "Return the loss, and log with self.log(name, value)."
_SAVES = "The Trainer has its methods: save_checkpoint, and fit(ckpt_path=...) to go on."
_LOADERS = "Loaders are trainer.train_dataloader, trainer.val_dataloaders ..., and are made when they are due."
_METRICS = "Metrics are trainer.callback_metrics, trainer.logged_metrics and trainer.progress_bar_metrics."
_FETCHES = "Batches are read ahead by DataLoader(num_workers=...); several loaders take CombinedLoader."
_STARTS = "Processes are started by the strategy: DDPStrategy(start_method=...), or torchrun."
_REGISTRY = "Model registries are not offered: save with ModelCheckpoint, and pass the path."


def _each(names: str, advice: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), advice)


NOT_OFFERED: dict[str, dict[str, str]] = {
    "leyden": {
        **_each("EvalResult Result TrainResult", _RESULTS),
        **_each("LightningLite", "Train with a Trainer, or with a loop of your own in plain PyTorch."),
        **_each("Fabric", "Train with a Trainer, or with a loop of your own in plain PyTorch."),
    },
    "leyden.accelerators": {
        **_each("HPUAccelerator IPUAccelerator", _HARDWARE),
        **_each("TPUAccelerator XLAAccelerator", _XLA),
    },
    "leyden.callbacks": {
        **_each("GPUStatsMonitor XLAStatsMonitor", _DEVICES),
        **_each("QuantizationAwareTraining", "Prepare the module with torch.ao.quantization in configure_model."),
    },
    "leyden.demos": {
        **_each("LightningLSTM MNIST MNISTDataModule Net SequenceSampler SimpleLSTM tokenize", _DEMOS),
    },
    "leyden.loops": {
        **_each("EvaluationEpochLoop EvaluationLoop FitLoop Loop ManualOptimization OptimizerLoop PredictionEpochLoop", _LOOPS),
        **_each("PredictionLoop TrainingBatchLoop TrainingEpochLoop", _LOOPS),
        **_each("DataLoaderLoop _EvaluationLoop _FitLoop _Loop _PredictionLoop _TrainingEpochLoop", _LOOPS),
        **_each("AbstractClosure Closure ClosureResult ManualResult OutputResult", _CLOSURES),
        **_each("RestartStage", _RESTARTS),
        **_each("AbstractDataFetcher DataFetcher DataLoaderIterDataFetcher InterBatchParallelDataFetcher", _FETCHES),
        **_each("_DataFetcher _DataLoaderIterDataFetcher _PrefetchDataFetcher", _FETCHES),
        **_each("check_finite_loss", "A fit looks at its losses by itself: Trainer(stop_on_nonfinite_loss=True), the default."),
    },
    "leyden.loggers": _each("LitLogger NeptuneLogger TestTubeLogger", _LOGGER),
    "leyden.plugins": {
        **_each("BitsandbytesPrecision DeepSpeedPlugin DeepSpeedPrecision DeepSpeedPrecisionPlugin", _WRAPS),
        **_each("ApexMixedPrecisionPlugin TransformerEnginePrecision TransformerEnginePrecisionPlugin", _WRAPS),
        **_each(
            "DDP2Plugin DDPFullyShardedPlugin DDPShardedPlugin DDPSpawnShardedPlugin DataParallelPlugin HorovodPlugin", _GONE
        ),
        **_each("DDPSequentialPlugin RPCPlugin RPCSequentialPlugin", _GONE),
        **_each("SingleTPUPlugin TPUSpawnPlugin XLACheckpointIO XLAPrecision", _XLA),
        **_each("HPUCheckpointIO HPUPrecisionPlugin", _HARDWARE),
        **_each("TPUBf16PrecisionPlugin TPUPrecisionPlugin XLABf16PrecisionPlugin XLAPrecisionPlugin", _XLA),
        **_each("BitsandbytesPrecisionPlugin", _WRAPS),
        **_each("KubeflowEnvironment LSFEnvironment XLAEnvironment", _TORCHRUN),
    },
    "leyden.profilers": {
        **_each("XLAProfiler", "There is no support for XLA: take PyTorchProfiler."),
        **_each("ScheduleWrapper", "Pass the schedule itself: PyTorchProfiler(schedule=...)."),
    },
    "leyden.strategies": {
        **_each("BaguaStrategy CollaborativeStrategy DDP2Strategy DDPFullyShardedStrategy DDPShardedStrategy", _GONE),
        **_each("DDPSpawnShardedStrategy DataParallelStrategy HorovodStrategy", _GONE),
        **_each("DeepSpeedStrategy remove_module_hooks", _WRAPS),
        **_each("_Launcher _MultiProcessingLauncher _SubprocessScriptLauncher", _STARTS),
        **_each("HPUParallelStrategy IPUStrategy SingleHPUStrategy", _HARDWARE),
        **_each("SingleDeviceXLAStrategy SingleTPUStrategy TPUSpawnStrategy XLAStrategy", _XLA),
    },
    "leyden.testing": _each("LightningTestModel LightningTestModelBase", _DEMOS),
    "leyden.trainer": {
        **_each("CheckpointConnector _CheckpointConnector TrainerIOMixin", _SAVES),
        **_each("DataConnector TrainerDataLoadingMixin _DataConnector _DataHookSelector _DataLoaderSource", _LOADERS),
        **_each("LoggerConnector ResultCollection TrainerLoggingMixin _LoggerConnector _ResultCollection", _METRICS),
        **_each("FxValidator _FxValidator", "Where self.log may be called, an error of it says."),
        **_each("AcceleratorConnector", "trainer.strategy and trainer.precision say what was chosen."),
        **_each("CallbackConnector TrainerCallbackHookMixin _CallbackConnector", "Callbacks are trainer.callbacks."),
        **_each("OptimizerConnector TrainerOptimizersMixin", "Optimizers are trainer.optimizers."),
        **_each("SLURMConnector SignalConnector _SignalConnector", "Signals are heeded while a verb runs: docs/resuming.md."),
        **_each("ConfigValidator verify_loop_configurations", "A verb checks what it is given before it begins."),
        **_each("TrainerProperties TrainerTrainingTricksMixin", "Subclass the Trainer."),
        **_each("_call_callback_hooks _call_lightning_module_hook _call_strategy_hook", "Call the method itself."),
    },
    "leyden.utilities": _each("ThroughputMonitor", _SPEED),
    "leyden.utilities.arg_parse": _each("add_default_args", "Call Trainer.add_argparse_args(parser)."),
    "leyden.utilities.deepspeed": _each("convert_zero_checkpoint_to_fp32_state_dict ds_checkpoint_dir", _WRAPS),
    "leyden.utilities.model_registry": _each("download_model_from_registry find_model_local_ckpt_path", _REGISTRY),
    "leyden.utilities.model_summary": _each("DeepSpeedLayerSummary DeepSpeedSummary deepspeed_param_size", _WRAPS),
    "leyden.overrides.distributed": _each(
        "UnrepeatedDistributedSampler UnrepeatedDistributedSamplerWrapper prepare_for_backward", _UNREPEATED
    ),
}
"""By room and name: what to do instead."""


class Absent:
    """What stands for a class that is not offered. Nothing is an instance of it."""

    advice = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        named = next(base for base in cls.__mro__ if "advice" in vars(base))  # a subclass of the user's has none of its own
        raise NotOffered(f"{named.__module__}.{named.__name__} is not offered. {cls.advice}")


@functools.cache
def _stand_in(room: str, name: str) -> type[Absent]:
    advice = NOT_OFFERED[room][name]
    return type(name, (Absent,), {"__module__": room, "__doc__": f"Not offered. {advice}", "advice": advice})


def absent(module: str, name: str, known: Iterable[str], room: str = "") -> Any:
    """What ``module`` answers when it is asked for a name that it has not: what stands for a class that is not offered.

    ``room`` is where the table has it, if not under ``module``.

    Raises:
        UnknownName: nobody ever had that name. It is an ``AttributeError``, so that ``hasattr`` is false.
    """
    if name in NOT_OFFERED.get(room or module, ()):
        return _stand_in(room or module, name)
    if not name.startswith("_") and _is_file(module, name):  # one that nobody has imported yet
        with suppress(ImportError):
            return importlib.import_module(f"{module}.{name}")
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    raise UnknownName(_unknown(module, name, (*known, *NOT_OFFERED.get(room or module, ()))))


def answers(module: str, room: str = "") -> Callable[[str], Any]:
    """The ``__getattr__`` of a module that has nothing of its own: see :func:`absent`."""
    return lambda name: absent(module, name, (), room)


def stand_in(path: str, answer: Callable[[str], Any], doc: str) -> None:
    """Let there be a module ``path`` without a file, in which ``answer`` is asked for every name."""
    module = module_from_spec(ModuleSpec(path, None, is_package=True))
    module.__doc__ = doc
    vars(module)["__getattr__"] = answer
    sys.modules[path] = module
    parent, _, last = path.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


@functools.cache
def _is_file(module: str, name: str) -> bool:
    """Whether ``name`` is a file or folder of the package ``module``."""
    return hasattr(sys.modules.get(module), "__path__") and find_spec(f"{module}.{name}") is not None


@functools.cache
def _unknown(module: str, name: str, known: tuple[str, ...]) -> str:
    """Remembered, as parsers of command lines ask for the same names a thousand times."""
    return f"{module} has no {name!r}.{did_you_mean(name, known)}"
