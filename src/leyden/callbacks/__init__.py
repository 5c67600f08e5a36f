"""The callbacks by name; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leyden.former_addresses import stand_in_addresses
from leyden.not_offered import absent

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.callbacks.batch_size_finder import BatchSizeFinder
    from leyden.callbacks.checkpoint import Checkpoint
    from leyden.callbacks.device_stats_monitor import DeviceStatsMonitor
    from leyden.callbacks.early_stopping import EarlyStopping
    from leyden.callbacks.finetuning import BackboneFinetuning, BaseFinetuning
    from leyden.callbacks.gradient_accumulation_scheduler import GradientAccumulationScheduler
    from leyden.callbacks.lambda_function import LambdaCallback
    from leyden.callbacks.lr_finder import LearningRateFinder
    from leyden.callbacks.lr_monitor import LearningRateMonitor
    from leyden.callbacks.model_checkpoint import ModelCheckpoint
    from leyden.callbacks.model_summary import ModelSummary, RichModelSummary
    from leyden.callbacks.on_exception_checkpoint import OnExceptionCheckpoint
    from leyden.callbacks.prediction_writer import BasePredictionWriter
    from leyden.callbacks.progress import ProgressBar, RichProgressBar, TQDMProgressBar
    from leyden.callbacks.pruning import ModelPruning
    from leyden.callbacks.spike import SpikeDetection
    from leyden.callbacks.stochastic_weight_avg import StochasticWeightAveraging
    from leyden.callbacks.throughput_monitor import ThroughputMonitor
    from leyden.callbacks.timer import Timer
    from leyden.callbacks.weight_averaging import EMAWeightAveraging, WeightAveraging

__all__ = [
    "BackboneFinetuning",
    "BaseFinetuning",
    "BasePredictionWriter",
    "BatchSizeFinder",
    "Callback",
    "Checkpoint",
    "DeviceStatsMonitor",
    "EMAWeightAveraging",
    "EarlyStopping",
    "GradientAccumulationScheduler",
    "LambdaCallback",
    "LearningRateFinder",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "ModelPruning",
    "ModelSummary",
    "OnExceptionCheckpoint",
    "ProgressBar",
    "RichModelSummary",
    "RichProgressBar",
    "SpikeDetection",
    "StochasticWeightAveraging",
    "TQDMProgressBar",
    "ThroughputMonitor",
    "Timer",
    "WeightAveraging",
]

_HOME = {
    "BackboneFinetuning": "leyden.callbacks.finetuning",
    "BaseFinetuning": "leyden.callbacks.finetuning",
    "BasePredictionWriter": "leyden.callbacks.prediction_writer",
    "BatchSizeFinder": "leyden.callbacks.batch_size_finder",
    "Callback": "leyden.callback",
    "Checkpoint": "leyden.callbacks.checkpoint",
    "DeviceStatsMonitor": "leyden.callbacks.device_stats_monitor",
    "EMAWeightAveraging": "leyden.callbacks.weight_averaging",
    "EarlyStopping": "leyden.callbacks.early_stopping",
    "GradientAccumulationScheduler": "leyden.callbacks.gradient_accumulation_scheduler",
    "LambdaCallback": "leyden.callbacks.lambda_function",
    "LearningRateFinder": "leyden.callbacks.lr_finder",
    "LearningRateMonitor": "leyden.callbacks.lr_monitor",
    "ModelCheckpoint": "leyden.callbacks.model_checkpoint",
    "ModelPruning": "leyden.callbacks.pruning",
    "ModelSummary": "leyden.callbacks.model_summary",
    "OnExceptionCheckpoint": "leyden.callbacks.on_exception_checkpoint",
    "ProgressBar": "leyden.callbacks.progress",
    "RichModelSummary": "leyden.callbacks.model_summary",
    "RichProgressBar": "leyden.callbacks.progress",
    "SpikeDetection": "leyden.callbacks.spike",
    "StochasticWeightAveraging": "leyden.callbacks.stochastic_weight_avg",
    "TQDMProgressBar": "leyden.callbacks.progress",
    "ThroughputMonitor": "leyden.callbacks.throughput_monitor",
    "Timer": "leyden.callbacks.timer",
    "WeightAveraging": "leyden.callbacks.weight_averaging",
}
_OLDER = {"LearningRateLogger": "LearningRateMonitor", "ProgressBarBase": "ProgressBar"}
"""What they were called before, and today."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    file = f"leyden.callbacks.{name}"
    if file in _HOME.values():
        return importlib.import_module(file)
    if name in _OLDER:
        return __getattr__(_OLDER[name])
    return absent(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


stand_in_addresses(__name__)
