"""Callbacks, where 0.5 and 0.6 had them."""

from leyden.callback import Callback
from leyden.callbacks.early_stopping import EarlyStopping
from leyden.callbacks.gradient_accumulation_scheduler import GradientAccumulationScheduler
from leyden.callbacks.model_checkpoint import ModelCheckpoint

__all__ = ["Callback", "EarlyStopping", "GradientAccumulationScheduler", "ModelCheckpoint"]
