"""Objects out of what a configuration says of them: a class by its import path, and the words of its constructor."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from leyden.cli.lightning_paths import today
from leyden.errors import InvalidType, UnknownName, did_you_mean
from leyden.spelling import exact_arguments


@exact_arguments
class ReduceLROnPlateau(lr_scheduler.ReduceLROnPlateau):
    """torch's, with the name of the metric that it follows, so that a configuration can say all of it in one place.

    Args:
        optimizer: the optimizer.
        monitor: the metric's name.
        mode: ``"min"`` or ``"max"``: what of the metric is better.
        factor: what learning rates are multiplied by.
        patience: checks without improvement before they are.
        threshold, threshold_mode: the least change that counts, as a share (``"rel"``) or as a number (``"abs"``).
        cooldown: checks to wait after a change.
        min_lr: the least learning rate, or a list by parameter group.
        eps: the least change of a learning rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        self.monitor = monitor


LRSchedulerTypeTuple = (LRScheduler, ReduceLROnPlateau)
LRSchedulerTypeUnion = LRScheduler | ReduceLROnPlateau
OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
"""A module's argument of this type is an optimizer by class, yet without its parameters: ``optimizer(self.parameters())``."""
LRSchedulerCallable = Callable[[Optimizer], LRSchedulerTypeUnion]
"""The same of a scheduler, yet without its optimizer."""


def instantiate_class(args: Any, init: Mapping[str, Any]) -> Any:
    """An object of ``init["class_path"]``, called with ``args`` (one, or a tuple of several) and ``init["init_args"]``.

    Raises:
        InvalidType: ``init`` says no class path.
        UnknownName: there is no such class; says the nearest.
    """
    path: Any = init.get("class_path") if hasattr(init, "get") else None
    if not isinstance(path, str):
        raise InvalidType("init", init, 'a dict {"class_path": "package.Class", "init_args": {...}}')
    positional = args if isinstance(args, tuple) else (args,)
    return instantiable(path)(*positional, **dict(init.get("init_args") or {}))


def instantiable(class_path: str) -> Any:
    """What stands at an import path. Raises :class:`UnknownName` where there is nothing."""
    path = today(class_path)
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UnknownName(f"class_path={path!r}: there is no module {module_name!r} ({error}).") from error
    if not hasattr(module, name):
        raise UnknownName(f"class_path={path!r}: {module_name} has no {name!r}.{did_you_mean(name, dir(module))}")
    return getattr(module, name)
