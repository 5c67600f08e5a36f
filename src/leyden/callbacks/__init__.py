"""The callbacks by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leyden.errors import NotOffered, UnknownName, did_you_mean

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.callbacks.checkpoint import Checkpoint
    from leyden.callbacks.early_stopping import EarlyStopping
    from leyden.callbacks.gradient_accumulation_scheduler import GradientAccumulationScheduler
    from leyden.callbacks.lambda_function import LambdaCallback
    from leyden.callbacks.lr_monitor import LearningRateMonitor
    from leyden.callbacks.model_checkpoint import ModelCheckpoint
    from leyden.callbacks.model_summary import ModelSummary, RichModelSummary
    from leyden.callbacks.on_exception_checkpoint import OnExceptionCheckpoint
    from leyden.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
    from leyden.callbacks.timer import Timer

__all__ = [
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "TQDMProgressBar",
    "Timer",
]

_HOME = {
    "Callback": "leyden.callback",
    "Checkpoint": "leyden.callbacks.checkpoint",
    "EarlyStopping": "leyden.callbacks.early_stopping",
    "GradientAccumulationScheduler": "leyden.callbacks.gradient_accumulation_scheduler",
    "LambdaCallback": "leyden.callbacks.lambda_function",
    "LearningRateMonitor": "leyden.callbacks.lr_monitor",
    "ModelCheckpoint": "leyden.callbacks.model_checkpoint",
    "ModelSummary": "leyden.callbacks.model_summary",
    "OnExceptionCheckpoint": "leyden.callbacks.on_exception_checkpoint",
    "ProgressBar": "leyden.callbacks.progress",
    "RichModelSummary": "leyden.callbacks.model_summary",
    "RichProgressBar": "leyden.callbacks.progress",
    "TQDMProgressBar": "leyden.callbacks.progress",
    "Timer": "leyden.callbacks.timer",
}
_AVERAGE = "torch.optim.swa_utils.AveragedModel, updated in on_train_batch_end,"
_FREEZE = "requires_grad_(False) in on_fit_start and optimizer.add_param_group in on_train_epoch_start"
_NOT_YET = {
    "BackboneFinetuning": _FREEZE,
    "BaseFinetuning": _FREEZE,
    "BasePredictionWriter": "a Callback that writes its outputs in on_predict_batch_end",
    "BatchSizeFinder": "a batch size given by hand",
    "DeviceStatsMonitor": "self.log with torch.cuda.memory_stats() in on_train_batch_end",
    "EMAWeightAveraging": _AVERAGE,
    "LearningRateFinder": "a learning rate given by hand",
    "ModelPruning": "torch.nn.utils.prune in on_train_epoch_end",
    "SpikeDetection": "a comparison of outputs['loss'] with its running mean in on_train_batch_end",
    "StochasticWeightAveraging": _AVERAGE,
    "ThroughputMonitor": "the progress bar's batches a second",
    "WeightAveraging": _AVERAGE,
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    file = f"leyden.callbacks.{name}"
    if file in _HOME.values():
        return importlib.import_module(file)
    if name in _NOT_YET:
        raise NotOffered(f"leyden.callbacks.{name} is not offered yet. Until it is, {_NOT_YET[name]} does the same work.")
    raise UnknownName(f"leyden.callbacks has no {name!r}.{did_you_mean(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
