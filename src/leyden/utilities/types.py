"""Types of documented signatures, where Lightning puts them."""

from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.lr_scheduler import LRScheduler as _LRScheduler

from leyden.state.optimizers import SchedulerPlan as LRSchedulerConfig
from leyden.types import (
    EPOCH_OUTPUT,
    EVAL_DATALOADERS,
    STEP_OUTPUT,
    TRAIN_DATALOADERS,
    LRSchedulerConfigType,
    LRSchedulerPLType,
    LRSchedulerType,
    LRSchedulerTypeTuple,
    LRSchedulerTypeUnion,
    Optimizable,
    OptimizerConfig,
    OptimizerLRScheduler,
    OptimizerLRSchedulerConfig,
    Steppable,
)
from leyden.types import EVALUATE_OUTPUT as _EVALUATE_OUTPUT
from leyden.types import METRIC as _METRIC
from leyden.types import METRIC_COLLECTION as _METRIC_COLLECTION
from leyden.types import PREDICT_OUTPUT as _PREDICT_OUTPUT
from leyden.types import Device as _DEVICE
from leyden.types import MapLocation as _MAP_LOCATION_TYPE
from leyden.types import Path as _PATH

__all__ = [
    "EPOCH_OUTPUT",
    "EVAL_DATALOADERS",
    "STEP_OUTPUT",
    "TRAIN_DATALOADERS",
    "_DEVICE",
    "_EVALUATE_OUTPUT",
    "_MAP_LOCATION_TYPE",
    "_METRIC",
    "_METRIC_COLLECTION",
    "_PATH",
    "_PREDICT_OUTPUT",
    "DistributedDataParallel",
    "LRScheduler",
    "LRSchedulerConfig",
    "LRSchedulerConfigType",
    "LRSchedulerPLType",
    "LRSchedulerType",
    "LRSchedulerTypeTuple",
    "LRSchedulerTypeUnion",
    "Optimizable",
    "OptimizerConfig",
    "OptimizerLRScheduler",
    "OptimizerLRSchedulerConfig",
    "ReduceLROnPlateau",
    "Steppable",
    "_LRScheduler",
]
