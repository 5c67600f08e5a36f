"""EarlyStopping: end training when a metric no longer improves."""

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from leyden.callback import Callback
from leyden.callbacks.monitor import Monitor, validates_at_epoch_end
from leyden.callbacks.older import read_mode
from leyden.checked import check_count, check_number, check_text
from leyden.distributed.rank_zero import log_info, rank_zero_info, rank_zero_warn_user
from leyden.errors import InvalidOption, InvalidType
from leyden.former_names import OlderName
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.strategies.own_exchanges import decided


class EarlyStoppingReason(Enum):
    """Why training was ended, or that it was not."""

    NOT_STOPPED = 0
    STOPPING_THRESHOLD = 1
    DIVERGENCE_THRESHOLD = 2
    PATIENCE_EXHAUSTED = 3
    NON_FINITE_METRIC = 4


@exact_arguments
class EarlyStopping(Callback):
    """Stop when ``monitor`` has not improved for ``patience`` checks.

    The metric is checked after each validation, or at the end of the training epoch where validation runs exactly there.
    Only a metric that is new is judged: a validation that runs every few epochs costs no patience in between.

    A run that it has ended stays ended when the same command is given again. It trains on where the arguments now allow more
    (another ``patience`` or threshold), or ``max_epochs`` or ``max_steps`` were raised.

    Args:
        monitor: The name of a logged metric.
        min_delta: By how much it has to be better than the best so far to count as an improvement. Below 0: by how much
            less than the best is one too.
        patience: Checks without improvement after which training ends.
        verbose: Whether to log improvements and the reason for stopping.
        mode: ``"min"`` (smaller is better) or ``"max"``.
        strict: Whether a metric that was never logged is an error. If false, it is said once in a warning.
        check_finite: Whether to stop when the metric is NaN or infinite.
        stopping_threshold: Stop as soon as the metric is better than this.
        divergence_threshold: Stop as soon as the metric is worse than this.
        check_on_train_epoch_end: Check at the end of the training epoch (``True``) or after validation (``False``).
        log_rank_zero_only: Whether only the first process logs what ``verbose`` asks for.

    Attributes:
        best_score: The best value so far, a 0-dim tensor.
        best_epoch: The epoch of that value, counted from 0; ``None`` before there is one.
        wait_count: Checks since the last improvement.
        stopped_epoch: The epoch in which training was ended, 0 where it was not.
        stopping_reason: Why, as an :class:`EarlyStoppingReason`; ``stopping_reason_message`` says it in a sentence.

    Raises:
        InvalidOption: a mode or number that cannot be used.
        MissingMonitor: (in training) ``monitor`` was not logged, and ``strict`` is true.
    """

    leyden_reads_epoch_metrics: ClassVar[bool] = True
    mode_dict: ClassVar[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {"min": torch.lt, "max": torch.gt}
    order_dict: ClassVar[dict[str, str]] = {"min": "<", "max": ">"}

    def __init__(
        self,
        monitor: str,
        min_delta: float = 0.0,
        patience: int = 3,
        verbose: bool = False,
        mode: Literal["min", "max"] = "min",
        strict: bool = True,
        check_finite: bool = True,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        check_on_train_epoch_end: bool | None = None,
        log_rank_zero_only: bool = False,
    ) -> None:
        name = "the name of a logged metric, such as 'val_loss'"
        if check_text("monitor", monitor, name, empty=False) is None:
            raise InvalidType("monitor", monitor, name)
        mode = read_mode(mode, monitor)
        if mode not in list(self.mode_dict):  # a list: what was given need not be hashable
            raise InvalidOption("mode", mode, '"min" (smaller is better) or "max"')
        self.__metric = Monitor(monitor)
        delta = check_number("min_delta", min_delta, "a difference, such as 0.01", finite=True)
        self.min_delta = delta * (1 if mode == "max" else -1)
        self.patience = check_count("patience", patience, 0, "a number of checks >= 0")
        self.verbose = verbose
        self.mode = mode
        self.strict = strict
        self.check_finite = check_finite
        threshold = "a value of the metric, or None"
        self.stopping_threshold = (
            None if stopping_threshold is None else check_number("stopping_threshold", stopping_threshold, threshold)
        )
        self.divergence_threshold = (
            None if divergence_threshold is None else check_number("divergence_threshold", divergence_threshold, threshold)
        )
        self.log_rank_zero_only = log_rank_zero_only
        self._check_on_train_epoch_end = check_on_train_epoch_end
        self.__has_run = False
        self.__resumed = False
        self.__begin()

    def __begin(self) -> None:
        self.wait_count = 0
        self.stopped_epoch = 0
        self.best_score = torch.tensor(math.inf if self.mode == "min" else -math.inf)
        self.stopping_reason = EarlyStoppingReason.NOT_STOPPED
        self.stopping_reason_message: str | None = None
        self.best_epoch: int | None = None
        self.__each_epoch = False  # whether every epoch ends with one check
        self.__judged: float | None = None  # the value that ended training
        self.__limits: list[int] | None = None  # max_epochs and max_steps of the run that it ended
        self.__warned = False
        self.__metric.forget()

    wait = OlderName("wait_count")

    @property
    def monitor(self) -> str:
        """The name of the metric. It may be set anew."""
        return self.__metric.name

    @monitor.setter
    def monitor(self, monitor: str) -> None:
        if monitor != self.__metric.name:
            self.__metric = Monitor(monitor)

    @property
    def state_key(self) -> str:
        return self._generate_state_key(monitor=self.monitor, mode=self.mode)

    @property
    def monitor_op(self) -> Callable[[Tensor, Tensor], Tensor]:
        """``torch.lt`` or ``torch.gt``: whether the first is better than the second."""
        return self.mode_dict[self.mode]

    # -- when
    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if self.__has_run:  # another fit is judged by itself
            self.__begin()
            self.__has_run = False

    def on_fit_start(self, trainer: Run, pl_module: LightningModule) -> None:
        """A run that goes on after the end that this callback brought about: ask for it again, where it still holds."""
        resumed, self.__resumed = self.__resumed, False
        if not resumed or self.stopping_reason is EarlyStoppingReason.NOT_STOPPED:
            return
        if self.__still_holds() and not _are_raised(self.__limits, _limits_of(trainer)):
            trainer.leyden_stop(because=self.stopping_reason_message or "EarlyStopping asked for it")
        else:
            self.stopped_epoch, self.stopping_reason = 0, EarlyStoppingReason.NOT_STOPPED
            self.stopping_reason_message = self.__judged = self.__limits = None

    def __still_holds(self) -> bool:
        """Whether what ended training would end it with the arguments of today."""
        value = math.nan if self.__judged is None else self.__judged  # NaN: a file of an earlier version
        reason, sign = self.stopping_reason, -1.0 if self.mode == "min" else 1.0
        if reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
            return self.wait_count >= self.patience
        if reason is EarlyStoppingReason.NON_FINITE_METRIC:
            return self.check_finite
        if reason is EarlyStoppingReason.STOPPING_THRESHOLD:
            return self.stopping_threshold is not None and not sign * value <= sign * self.stopping_threshold
        return self.divergence_threshold is not None and not sign * value >= sign * self.divergence_threshold

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__has_run = True

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        if trainer.leyden_fitting:
            self.__metric.validation_starts(trainer)

    def on_validation_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if not trainer.leyden_fitting:
            return
        self.__metric.validation_ends(trainer)
        if not self._should_skip_check(trainer) and not self.__checks_on_train_epoch_end(trainer):
            self.__check_if_new(trainer, epoch_over=False)

    def on_train_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self._should_skip_check(trainer):
            return
        if self.__checks_on_train_epoch_end(trainer):
            self.__check_if_new(trainer, epoch_over=True)
        elif self.monitor not in trainer.callback_metrics:
            self.__say_missing(trainer, epoch_over=True)

    def _should_skip_check(self, trainer: Run) -> bool:
        return not trainer.leyden_fitting or trainer.sanity_checking or bool(trainer.fast_dev_run)

    def __checks_on_train_epoch_end(self, trainer: Run) -> bool:
        if self._check_on_train_epoch_end is not None:
            return self._check_on_train_epoch_end
        return validates_at_epoch_end(trainer)

    def __check_if_new(self, trainer: Run, epoch_over: bool) -> None:
        if self.monitor not in trainer.callback_metrics:
            self.__metric.read(trainer)  # processes that have it hear that this one has not
            self.__say_missing(trainer, epoch_over)
        elif self.__metric.is_new(trainer):
            self._run_early_stopping_check(trainer)
            self.__metric.taken(trainer)

    def __say_missing(self, trainer: Run, epoch_over: bool) -> None:
        if self.__metric.may_still_come(trainer, epoch_over):
            return
        error = self.__metric.missing("EarlyStopping", trainer)
        if self.strict:
            raise error
        if not self.__warned:
            self.__warned = True
            rank_zero_warn_user(f"{error} Until it is, EarlyStopping stops nothing.")

    # -- whether
    def _run_early_stopping_check(self, trainer: Run) -> None:
        """Judge the metric's present value, and ask for the end where it says so."""
        current = self.__metric.read(trainer)
        if current is None:
            return
        self.__each_epoch = validates_at_epoch_end(trainer)
        best = self.best_score
        should_stop, reason = self._evaluate_stopping_criteria(current)
        if self.best_score is not best:
            self.best_epoch = trainer.current_epoch
        # what is judged is the same on all processes
        if decided(trainer.strategy, should_stop, all=False):
            self.stopped_epoch = trainer.current_epoch
            self.stopping_reason_message = reason
            self.__judged, self.__limits = float(current), _limits_of(trainer)
            trainer.leyden_stop(because=reason or "EarlyStopping asked for it")
        if reason and self.verbose:
            self._log_info(trainer, reason)

    def _evaluate_stopping_criteria(self, current: Tensor) -> tuple[bool, str | None]:
        """Whether ``current`` ends training, and what there is to say about it."""
        name, better = self.monitor, self.monitor_op
        value, best = float(current), float(self.best_score)
        if self.check_finite and not math.isfinite(value):
            self.stopping_reason = EarlyStoppingReason.NON_FINITE_METRIC
            return True, f"{name} = {value} is not finite. The best value before was {best:.3f}."
        if self.stopping_threshold is not None and better(current, _beside(current, self.stopping_threshold)):
            self.stopping_reason = EarlyStoppingReason.STOPPING_THRESHOLD
            return True, f"{name} = {value:.6g} reached the stopping threshold {self.stopping_threshold}."
        if self.divergence_threshold is not None and better(-current, -_beside(current, self.divergence_threshold)):
            self.stopping_reason = EarlyStoppingReason.DIVERGENCE_THRESHOLD
            return True, f"{name} = {value:.6g} is worse than the divergence threshold {self.divergence_threshold}."
        if better(current - self.min_delta, self.best_score.to(current.device)):
            said = self._improvement_message(current)
            self.best_score = current.clone()
            self.wait_count = 0
            return False, said
        self.wait_count += 1
        if self.wait_count >= self.patience:
            self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED
            by = f" by more than {self.min_delta * (1 if self.mode == 'max' else -1):g}" if self.min_delta else ""
            checks = "check" if self.wait_count == 1 else "checks"
            each = checks.replace("check", "epoch") if self.__each_epoch else checks
            where = "" if self.best_epoch is None else f" at epoch {self.best_epoch + 1}"
            return True, f"{name} has not improved{by} for {self.wait_count} {each}, best {best:.4g}{where}."
        return False, None

    def _improvement_message(self, current: Tensor) -> str:
        if not torch.isfinite(self.best_score):
            return f"{self.monitor} has its first value: {float(current):.3f}."
        if not self.monitor_op(current, self.best_score.to(current.device)):
            return f"{self.monitor} = {float(current):.3f} is as good as the best, {float(self.best_score):.3f}, to min_delta."
        by = abs(float(self.best_score) - float(current))
        return f"{self.monitor} improved by {by:.3f} to {float(current):.3f}."

    def _log_info(self, trainer: Run, message: str) -> None:
        if trainer.world_size > 1 and not self.log_rank_zero_only:
            log_info("[rank %d] %s", trainer.global_rank, message)
        else:
            rank_zero_info(message)

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        return {
            "wait_count": self.wait_count,
            "stopped_epoch": self.stopped_epoch,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "patience": self.patience,
            "stopping_reason": self.stopping_reason.value,
            "stopping_reason_message": self.stopping_reason_message,
            "judged": self.__judged,
            "limits": self.__limits,
            "metric": self.__metric.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__begin()
        self.__has_run, self.__resumed = False, True
        self.wait_count = state_dict["wait_count"]
        self.stopped_epoch = state_dict["stopped_epoch"]
        self.best_score = torch.as_tensor(state_dict["best_score"])
        self.best_epoch = state_dict.get("best_epoch")
        self.stopping_reason = EarlyStoppingReason(state_dict.get("stopping_reason", 0))
        self.stopping_reason_message = state_dict.get("stopping_reason_message")
        self.__judged, self.__limits = state_dict.get("judged"), state_dict.get("limits")
        self.__metric.load_state_dict(state_dict.get("metric", {}))


def _limits_of(trainer: Run) -> list[int]:
    return [-1 if trainer.max_epochs is None else trainer.max_epochs, trainer.max_steps]


def _are_raised(then: list[int] | None, now: list[int]) -> bool:
    """Whether either limit is higher now; -1 is none."""
    return then is not None and any(
        before != -1 and (limit == -1 or limit > before) for before, limit in zip(then, now, strict=True)
    )


def _beside(current: Tensor, threshold: float) -> Tensor:
    """``threshold`` rounded as ``current`` is, so that a metric that is equal to it is found equal."""
    dtype = current.dtype if current.is_floating_point() else torch.float64
    return torch.tensor(float(threshold), dtype=dtype, device=current.device)
