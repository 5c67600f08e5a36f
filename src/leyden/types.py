"""Type names that documented signatures use."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Protocol, TypedDict, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

Path = str | PathLike[str]
STEP_OUTPUT = Tensor | Mapping[str, Any] | None
"""What a step may return: the loss, a mapping with the key ``loss``, or ``None`` to skip the batch."""
EPOCH_OUTPUT = list[Any]
"""What the epoch ends of 1.x were given: what each step returned, by loader where there are several."""
LRSchedulerTypeUnion = LRScheduler | ReduceLROnPlateau
LRSchedulerPLType = LRSchedulerTypeUnion
LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
"""The same for ``isinstance``."""
EVALUATE_OUTPUT = list[Mapping[str, float]]
"""What ``validate`` and ``test`` return: each loader's values by name."""
PREDICT_OUTPUT = list[Any] | list[list[Any]]
"""What ``predict`` returns: what each step returned, by loader where there are several."""
LRSchedulerType = type[LRScheduler] | type[ReduceLROnPlateau]
METRIC = Any
"""A metric object, a tensor or a number."""
METRIC_COLLECTION = Any
"""Metrics by their names."""
TRAIN_DATALOADERS = Any
"""A loader, or a list, tuple or dict of loaders that are read side by side."""
EVAL_DATALOADERS = Any
"""A loader, or a list, tuple or dict of loaders that are read one after another."""
ClipAlgorithm = Literal["norm", "value"]
"""By what gradients are clipped: their total norm, or each one's value."""
Reduction = Literal["mean", "sum", "min", "max", "last"]
"""How the batches' values become the epoch's."""
PrecisionName = Literal[
    64, 32, 16, "64", "32", "16", "bf16", "64-true", "32-true", "16-true", "bf16-true", "16-mixed", "bf16-mixed"
]  # fmt: skip
"""What ``Trainer(precision=...)`` may be."""
Device = str | torch.device | int
MapLocation = str | torch.device | dict[str, str] | None


@runtime_checkable
class Steppable(Protocol):
    """What takes a step: an optimizer, or what stands for one."""

    def step(self, closure: Callable[[], Any] | None = ..., **kwargs: Any) -> Any: ...


@runtime_checkable
class Optimizable(Steppable, Protocol):
    """What has all that an optimizer is asked for."""

    param_groups: list[dict[Any, Any]]
    defaults: dict[Any, Any]
    state: Any

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class LRSchedulerConfigType(TypedDict, total=False):
    """The keys of an ``lr_scheduler_config``, as :meth:`LightningModule.configure_optimizers` may return it."""

    scheduler: LRSchedulerTypeUnion
    name: str | None
    interval: str
    frequency: int
    reduce_on_plateau: bool
    monitor: str | None
    strict: bool


class OptimizerConfig(TypedDict):
    """``configure_optimizers`` may return a dict with an optimizer alone."""

    optimizer: Optimizer


class OptimizerLRSchedulerConfig(TypedDict):
    """``configure_optimizers`` may return a dict with an optimizer and its scheduler."""

    optimizer: Optimizer
    lr_scheduler: LRSchedulerTypeUnion | LRSchedulerConfigType


OptimizerLRScheduler = (
    Optimizer
    | Sequence[Optimizer]
    | tuple[Sequence[Optimizer], Sequence[LRSchedulerTypeUnion | LRSchedulerConfigType]]
    | OptimizerConfig
    | OptimizerLRSchedulerConfig
    | Sequence[OptimizerConfig | OptimizerLRSchedulerConfig]
    | None
)


def name_in_hooks(parts: Iterable[type], **names: type) -> None:
    """Put classes that could not be imported where hooks are defined, lest files need each other, into the hooks' annotations."""
    for part in parts:
        for value in vars(part).values():
            function = getattr(value, "fget", value)  # a property's, or itself
            annotations = getattr(function, "__annotations__", {})
            for parameter, said in annotations.items():
                if isinstance(said, str):
                    annotations[parameter] = names[said] if said in names else eval(said, {**names})
