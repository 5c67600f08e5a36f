"""A monitored metric: whether it is there, may still come, and is newer than the last time it was read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, final

from torch import Tensor

from leyden.checkpoint.naming import doubt_names, names_in
from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import MissingMonitor, PossibleUserWarning, did_you_mean
from leyden.state.run import Run

_COUNTS = {"epoch", "step"}  # in the names of files they are the run's


@final
class Monitor:
    """The metric ``name`` of a fit, for callbacks that decide by it.

    A metric that validation brings is looked for and judged only after a validation: one that is not due every epoch
    is neither missing nor without improvement in between.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.forget()

    def forget(self) -> None:
        """Begin a new fit."""
        self._from_validation = False
        self._validated = False  # in this fit
        self._stale = False
        self._there_before = False
        self._judged: tuple[int, int] | None = None
        self._warned = False
        self._doubted: set[str] = set()

    # -- said by the callback's hooks
    def validation_starts(self, run: Run) -> None:
        self._there_before = self.name in run.callback_metrics

    def validation_ends(self, run: Run) -> None:
        if not self._there_before and self.name in run.callback_metrics:
            self._from_validation = True
        if not run.sanity_checking:
            self._validated = True
            self._stale = False

    # -- asked by the callback
    def read(self, run: Run) -> Tensor | None:
        """The metric's value, on the CPU (this waits for the device), the same on all processes, which all call this; ``None``
        where it has not been logged."""
        value = run.leyden_metrics.deciding(self.name)
        return None if value is None else value.detach().cpu().squeeze()

    def is_new(self, run: Run) -> bool:
        """Whether it may have changed since :meth:`taken`: a batch ran, and a validation where that brings the metric."""
        return not self._stale and self._judged != (run.global_step, run.leyden_fit.progress.batches)

    def taken(self, run: Run) -> None:
        """Its present value has been judged."""
        self._stale = self._from_validation
        # kept across a resume, so that a value judged before the file was written is not judged again after it is read
        self._judged = (run.global_step, run.leyden_fit.progress.batches)

    def may_still_come(self, run: Run, epoch_over: bool) -> bool:
        """Whether a metric that is not there now can have its first value ahead of it, and so is not missing yet."""
        if not self._validated and _validates(run):
            return True
        return run.current_epoch == 0 and not epoch_over

    def wait_for_first(self, run: Run, epoch_over: bool, who: str, meanwhile: str) -> None:
        """The metric is not there: say once what goes without it ``meanwhile``, where it may still come.

        With ``limit_val_batches=0``, a quick run, it need not come.

        Raises:
            MissingMonitor: it will not come.
        """
        if not self.may_still_come(run, epoch_over) and run.limit_val_batches != 0:
            raise self.missing(who, run)
        if not self._warned:
            self._warned = True
            rank_zero_warn_user(
                f"{who} was to save by {self.name!r}, which has not been logged yet. Until it is, {meanwhile}.",
                category=PossibleUserWarning,
            )

    def is_unjudged(self, run: Run) -> bool:
        """Whether a fit that ends had no validation to bring the metric: what it has trained is kept all the same, and said.

        With ``limit_val_batches=0``, a quick run, that was asked for, and said before.
        """
        if run.limit_val_batches == 0:
            return True
        if self._validated or not _validates(run) or run.fast_dev_run:
            return False
        every, epochs = run.check_val_every_n_epoch, run.max_epochs
        why = f": check_val_every_n_epoch={every} is more than max_epochs={epochs}" if every and epochs and every > epochs else ""
        rank_zero_warn_user(
            f"ModelCheckpoint was to save by {self.name!r}, and the fit ended before a validation was due{why}. The last "
            f"state is kept instead.",
            category=PossibleUserWarning,
        )
        return True

    def all_named(self, writer: Any, metrics: dict[str, Tensor], run: Run, epoch_over: bool) -> dict[str, Tensor]:
        """``metrics``, among which is every one that ``writer.filename`` names, or it may still come. All processes call this,
        and get the same values of those and of :attr:`name`.

        A writer that puts its files' names together itself may know more, and with ``limit_val_batches=0``, a quick run, not all
        need come.

        Raises:
            MissingMonitor: one is not there and will not come.
        """
        named = names_in(writer.filename or "")
        alike = run.leyden_metrics.of_all({*filter(None, [self.name]), *named} - _COUNTS)
        if not type(writer).format_checkpoint_name.__module__.startswith("leyden."):
            return metrics | alike
        lacking = [name for name in named if name not in metrics]
        if lacking and run.limit_val_batches != 0 and not self.may_still_come(run, epoch_over):
            known = sorted(metrics)
            raise MissingMonitor(
                f"filename={writer.filename!r} names the metric {lacking[0]!r}, which was not logged."
                f"{did_you_mean(lacking[0], known)} There are: {', '.join(map(repr, known))}. Call "
                f"self.log({lacking[0]!r}, value) in the module, or leave it out of the name."
            )
        doubt_names(writer.filename, lacking, metrics, self._doubted)
        return metrics | alike

    def missing(self, who: str, run: Run) -> MissingMonitor:
        """The error that says what there is instead."""
        known = sorted(run.callback_metrics)
        there = f"The metrics are: {', '.join(map(repr, known))}." if known else "Nothing was logged at all."
        hint = did_you_mean(self.name, known) + self._unvalidated(run)
        return MissingMonitor(
            f"{who} monitors {self.name!r}, which was not logged.{hint} {there} "
            f"Call self.log({self.name!r}, value) in the module, or monitor another metric."
        )

    def _unvalidated(self, run: Run) -> str:
        """A sentence that says that no validation ever ran, and why, where that is so."""
        if self._validated or _validates(run):
            return ""
        why = "there is no validation loader" if run.limit_val_batches else "limit_val_batches is 0"
        if run.limit_val_batches and run.leyden_loaders.exists("val"):
            why = "the module has no `validation_step`" if not run.val_dataloaders else "its loaders yield no batch"
        return f" Validation never ran: {why}."

    def state_dict(self) -> dict[str, Any]:
        return {
            "from_validation": self._from_validation,
            "validated": self._validated,
            "there_before": self._there_before,
            "stale": self._stale,
            "judged": None if self._judged is None else list(self._judged),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._from_validation = bool(state.get("from_validation", False))
        self._validated = bool(state.get("validated", False))
        self._there_before = bool(state.get("there_before", False))
        self._stale = bool(state.get("stale", False))
        judged = state.get("judged")
        self._judged = None if judged is None else (int(judged[0]), int(judged[1]))


def _validates(run: Run) -> bool:
    """Whether fit has batches to validate on, or will make the loaders that give them when a validation is due."""
    if "val" in run.leyden_loaders.eval_given:
        return sum(run.num_val_batches) > 0
    return run.leyden_fitting and run.enable_validation


def validates_at_epoch_end(run: Run) -> bool:
    """Whether validation runs once in every epoch, after its last batch; true where there is none to wait for."""
    if not _validates(run):
        return True
    interval = run.val_check_interval
    return isinstance(interval, float) and interval == 1.0 and run.check_val_every_n_epoch == 1


def validation_loss(metrics: Collection[str]) -> str | None:
    """The one metric that is the validation loss: ``val_loss``, else the only one with ``val`` and ``loss`` in its name."""
    if "val_loss" in metrics:
        return "val_loss"
    found = [name for name in metrics if "val" in name.lower() and "loss" in name.lower()]
    # one that is logged by step and by epoch stands there under three names
    found = [name for name in found if not any(name == other + end for other in found for end in ("_step", "_epoch"))]
    return found[0] if len(found) == 1 else None
