"""LearningRateMonitor: the learning rates, and if asked momenta and weight decays, among the logged metrics."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.errors import ConflictingOptions, InvalidOption, InvalidReturn
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run


@exact_arguments
class LearningRateMonitor(Callback):
    """Log every optimizer's learning rate, before the step that uses it.

    Names are ``lr-Adam`` (the optimizer's class), ``lr-Adam-1`` for a second one of that class, or the ``name`` of the
    ``lr_scheduler_config``; with several parameter groups ``/pg1``, ``/pg2`` or ``/`` and the group's own ``name`` follow.

    Args:
        logging_interval: ``"step"`` (every ``log_every_n_steps`` steps), ``"epoch"`` (at each epoch's start), or ``None``
            for the interval at which each scheduler steps; without a scheduler, both.
        log_momentum: Whether to log momenta (Adam's first beta) as ``NAME-momentum``.
        log_weight_decay: Whether to log weight decays as ``NAME-weight_decay``.

    Attributes:
        lrs: Every rate that was logged, by name.
        last_momentum_values, last_weight_decay_values: The newest value by name.

    Raises:
        InvalidOption: another ``logging_interval``.
        ConflictingOptions: (when training starts) there is no logger.
        InvalidReturn: (when training starts) two parameter groups of one optimizer have the same ``name``.
    """

    def __init__(
        self,
        logging_interval: Literal["step", "epoch"] | None = None,
        log_momentum: bool = False,
        log_weight_decay: bool = False,
    ) -> None:
        if logging_interval not in (None, "step", "epoch"):
            raise InvalidOption("logging_interval", logging_interval, '"step", "epoch" or None')
        self.logging_interval = logging_interval
        self.log_momentum = log_momentum
        self.log_weight_decay = log_weight_decay
        self.lrs: dict[str, list[Any]] = {}
        self.last_momentum_values: dict[str, Any] = {}
        self.last_weight_decay_values: dict[str, Any] = {}
        self.__every = 0

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.loggers:
            raise ConflictingOptions(
                "LearningRateMonitor writes to a logger, and Trainer(logger=False) has none. Remove the callback, or give the "
                "Trainer a logger."
            )
        watched = list(_named_optimizers(trainer))
        for name, optimizer, _ in watched:
            repeated = [each for each, times in Counter(_group_names(optimizer)).items() if times > 1]
            if repeated:
                raise InvalidReturn(
                    f"The parameter groups of {name} share the name {repeated[0]!r}, so their learning rates could not be told "
                    f"apart. Give each group its own 'name', or none."
                )
        self.__every = trainer.log_every_n_steps if self.logging_interval != "epoch" and watched else 0
        self.lrs = {f"{name}{group}": [] for name, optimizer, _ in watched for group in _suffixes(optimizer)}
        self.last_momentum_values = {f"{name}-momentum": None for name in self.lrs}
        self.last_weight_decay_values = {f"{name}-weight_decay": None for name in self.lrs}

    def on_train_batch_start(self, trainer: Run, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        every = self.__every
        if every:
            progress = trainer.leyden_fit.progress
            # once a step, at the first batch of its window
            if (progress.stepped_batches + 1) % every == 0 and progress.window == 0:
                self.__log(trainer, "step")

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if self.logging_interval != "step":
            self.__log(trainer, "epoch")

    def __log(self, trainer: Run, when: str) -> None:
        chosen = [
            (name, optimizer)
            for name, optimizer, interval in _named_optimizers(trainer)  # a callback may have put another scheduler in its place
            if self.logging_interval is not None or interval in (None, when)
        ]
        values: dict[str, Any] = {}
        for name, optimizer in chosen:
            for suffix, group in zip(_suffixes(optimizer), optimizer.param_groups, strict=True):
                key = name + suffix
                values[key] = rate = _kept(group["lr"])
                self.lrs.setdefault(key, []).append(rate)
                if self.log_momentum:
                    momentum = group["betas"][0] if "betas" in group else group.get("momentum", 0)
                    self.last_momentum_values[f"{key}-momentum"] = values[f"{key}-momentum"] = _kept(momentum)
                if self.log_weight_decay:
                    decay = _kept(group.get("weight_decay", 0))
                    self.last_weight_decay_values[f"{key}-weight_decay"] = values[f"{key}-weight_decay"] = decay
        if not values:
            return
        trainer.leyden_metrics.publish(values, logged=True)
        trainer.leyden_log_row(values, trainer.leyden_fit.progress.stepped_batches)


def _named_optimizers(run: Run) -> Iterator[tuple[str, Optimizer, str | None]]:
    """Each optimizer, under its scheduler's name where it has one, with that scheduler's interval."""
    taken: Counter[str] = Counter()
    scheduled = set()
    pairs: list[tuple[str | None, Optimizer, str | None]] = []
    for plan in run.lr_scheduler_configs:
        optimizer = getattr(plan.scheduler, "optimizer", None)
        if optimizer is not None:
            scheduled.add(id(optimizer))
            pairs.append((plan.name, optimizer, plan.interval))
    pairs += [(None, optimizer, None) for optimizer in run.optimizers if id(optimizer) not in scheduled]
    for given, optimizer, interval in pairs:
        name = given or f"lr-{type(optimizer).__name__}"
        taken[name] += 1
        yield name if taken[name] == 1 else f"{name}-{taken[name] - 1}", optimizer, interval


def _group_names(optimizer: Optimizer) -> list[str]:
    groups = optimizer.param_groups
    return [str(group.get("name", f"pg{number}")) for number, group in enumerate(groups, start=1)]


def _suffixes(optimizer: Optimizer) -> list[str]:
    names = _group_names(optimizer)
    if len(names) == 1 and "name" not in optimizer.param_groups[0]:
        return [""]
    return [f"/{name}" for name in names]


def _kept(value: Any) -> Any:
    # an optimizer with capturable=True changes its rate's tensor in place
    return value.detach().clone() if isinstance(value, Tensor) else value
