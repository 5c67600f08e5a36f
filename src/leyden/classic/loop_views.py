"""The names under which libraries reach into a trainer's loops: small views of facts that others own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

from torch import Tensor

from leyden.checked import check_count
from leyden.errors import UnknownName
from leyden.metrics.newest import stack_scalars
from leyden.state.end import End
from leyden.state.making import load_train
from leyden.state.progress import Done
from leyden.state.run import Run


class View:
    """What is read off a run. Only what has a setter may be set."""

    _place = "The progress of a loop"
    _own: ClassVar[tuple[str, ...]] = ()
    """What its constructor sets."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = getattr(type(self), name, None)
        if isinstance(known, property) and known.fset is not None:
            known.fset(self, value)
        elif name in self._own and name not in vars(self):
            vars(self)[name] = value
        else:
            raise UnknownName(
                f"{self._place}.{name} was set, and is only read off the run. What may be set are limits, such as "
                f"trainer.fit_loop.max_epochs; to go on from another place is fit(ckpt_path=...)."
            )


@dataclass
class Counts(View):
    """How many were begun (``ready``), had their first hook (``started``), were done, and had their last hook (``completed``)."""

    _own = ("ready", "started", "processed", "completed")
    ready: int
    started: int
    processed: int
    completed: int


@dataclass
class LoopProgress(View):
    """Counts of the running epoch, or of the last one, and over all epochs; of batches, whether it is the epoch's last."""

    _own = ("current", "total", "is_last_batch")
    current: Counts
    total: Counts
    is_last_batch: bool = False


@dataclass(frozen=True)
class DataSource:
    """``_data_source`` of a loop: where its loaders come from. ``instance`` is a loader, or the object whose method makes it."""

    name: str
    instance: Any

    def is_defined(self) -> bool:
        """Whether there are any."""
        return self.instance is not None


def _data_source(run: Run, stage: str) -> DataSource:
    origin = run.leyden_loaders.origins.get(stage)
    instance = None if origin is None else origin.given if origin.owner is None else origin.owner
    return DataSource(f"{stage}_dataloader", instance)


class RunningLoss:
    """``trainer.running_loss`` and ``trainer.fit_loop.running_loss``: the newest losses."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def append(self, loss: Tensor) -> None:
        """Note a loss that manual optimization does not return: the bar shows it, and it is checked as any other."""
        self.run.leyden_fit.losses.note(loss.mean())

    def last(self) -> Tensor | None:
        return self.run.leyden_fit.losses.latest

    def mean(self) -> Tensor | None:
        waiting = self.run.leyden_fit.losses.waiting
        return stack_scalars(waiting).mean() if waiting else self.run.leyden_fit.losses.latest


class FitLoopView(View):
    """``trainer.fit_loop``: how far training is and how far it will go. Its limits may be set.

    Where that happens after a fit, ``trainer.fit`` with the same module goes on from where it ended, with the same optimizers.
    """

    _place = "trainer.fit_loop"
    _own = ("trainer",)

    def __init__(self, run: Run) -> None:
        self.trainer = run

    @property
    def max_epochs(self) -> int | None:
        return self.trainer.max_epochs

    @max_epochs.setter
    def max_epochs(self, epochs: int | None) -> None:
        limit = None if epochs in (None, -1) else check_count("max_epochs", epochs, 0, "a number of epochs, or -1 for no limit")
        self._limit(max_epochs=limit)

    @property
    def min_epochs(self) -> int:
        return self.trainer.min_epochs

    @min_epochs.setter
    def min_epochs(self, epochs: int | None) -> None:
        self._limit(min_epochs=0 if epochs is None else check_count("min_epochs", epochs, 0, "a number of epochs >= 0"))

    @property
    def max_steps(self) -> int:
        """Optimizer steps at which training ends; -1 for no limit."""
        return self.trainer.max_steps

    @max_steps.setter
    def max_steps(self, steps: int | None) -> None:
        limit = None if steps in (None, -1) else check_count("max_steps", steps, 0, "a number of steps, or -1 for no limit")
        self._limit(max_steps=limit)

    @property
    def min_steps(self) -> int | None:
        return self.trainer.min_steps

    @min_steps.setter
    def min_steps(self, steps: int | None) -> None:
        self._limit(min_steps=0 if steps is None else check_count("min_steps", steps, 0, "a number of steps >= 0"))

    @property
    def current_epoch(self) -> int:
        return self.trainer.current_epoch

    @property
    def global_step(self) -> int:
        return self.trainer.global_step

    @property
    def batch_idx(self) -> int:
        """The running batch of the epoch, or the last that ended; -1 before the first."""
        return self.epoch_loop.batch_progress.current.ready - 1

    @property
    def total_batch_idx(self) -> int:
        """The same, counted over all epochs."""
        return self.epoch_loop.batch_progress.total.ready - 1

    @property
    def done(self) -> bool:
        """Whether no batch is to follow."""
        progress = self.trainer.leyden_fit.progress
        is_last = progress.closed and progress.done == Done.PLATEAUS and progress.epoch + 1 == self.max_epochs
        return is_last or End(self.trainer).has_trained()

    @property
    def epoch_progress(self) -> LoopProgress:
        """Epochs that were begun, and that have ended."""
        progress = self.trainer.leyden_fit.progress
        completed, is_over = progress.number, progress.closed and progress.done >= Done.PLATEAUS
        runs = Done.CHECKED < progress.done < Done.EPOCH_TOLD and not progress.checking
        begun = max(completed, progress.epoch + runs)
        counts = Counts(begun, begun, max(completed, progress.epoch + is_over), completed)
        return LoopProgress(counts, counts)

    @property
    def max_batches(self) -> int | float:
        """Batches of an epoch, limits included; infinity where unknown."""
        return self.trainer.num_training_batches

    @property
    def running_loss(self) -> RunningLoss:
        """The newest losses."""
        return RunningLoss(self.trainer)

    def setup_data(self) -> None:
        """Load the training loader, if that has not happened yet: ``trainer.train_dataloader`` and ``max_batches`` are known."""
        if self.trainer.leyden_loaders.train is None:
            load_train(self.trainer)

    @property
    def is_last_batch(self) -> bool:
        return self.trainer.is_last_batch

    @property
    def _data_source(self) -> DataSource:
        return _data_source(self.trainer, "train")

    @property
    def epoch_loop(self) -> EpochLoopView:
        """The same, and what is known of the loop over an epoch's batches."""
        return EpochLoopView(self.trainer)

    def _limit(self, **limits: Any) -> None:
        options = self.trainer.leyden_options
        limits["epochs_by_default"] = False
        self.trainer.leyden_options = replace(options, limits=replace(options.limits, **limits))
        self.trainer.leyden_goes_on = not self.trainer.training


class EpochLoopView(FitLoopView):
    """``trainer.fit_loop.epoch_loop``: how far the epoch is."""

    _place = "trainer.fit_loop.epoch_loop"

    @property
    def done(self) -> bool:
        """Whether the epoch's last batch was read, or the last step taken."""
        return self.trainer.is_last_batch or self.trainer.leyden_fit.progress.step == self.max_steps

    @property
    def batch_progress(self) -> LoopProgress:
        """Batches of the epoch that runs, or of the last one, and of all epochs."""
        progress = self.trainer.leyden_fit.progress
        at, batch, total = progress.done, progress.batch, progress.batches
        if batch == 0 and total and not Done.READ <= at < Done.EPOCH_TOLD and self.max_batches != float("inf"):
            batch = int(self.max_batches)
        begun, started = Done.READ <= at < Done.STEP, Done.STARTED <= at < Done.STEP
        told = Done.STEP <= at <= Done.ROW  # its last hook is being called
        current, all_of_them = (Counts(n + begun, n + started, n, n - told) for n in (batch, total))
        return LoopProgress(current, all_of_them, self.trainer.is_last_batch)

    @property
    def _batches_that_stepped(self) -> int:
        """The loggers' x-axis: batches that ended with an optimizer step; the newest counts when its validation is done."""
        progress = self.trainer.leyden_fit.progress
        is_newest_open = progress.window == 0 and Done.STEP <= progress.done <= Done.VALIDATION_TOLD and not progress.checking
        return progress.stepped_batches - is_newest_open

    @property
    def automatic_optimization(self) -> Any:
        """``optim_progress.optimizer_steps``: steps that the trainer took; 0 in manual optimization."""
        steps = _steps(self.global_step if self._is_automatic else 0)
        return SimpleNamespace(
            optim_progress=SimpleNamespace(optimizer_steps=steps.total.completed, optimizer=SimpleNamespace(step=steps))
        )

    @property
    def manual_optimization(self) -> Any:
        """``optim_step_progress.total.completed``: steps in manual optimization."""
        return SimpleNamespace(optim_step_progress=_steps(0 if self._is_automatic else self.global_step))

    @property
    def val_loop(self) -> EvaluationLoopView:
        """Validation inside fit."""
        return EvaluationLoopView(self.trainer, "val", inside_fit=True)

    @property
    def _is_automatic(self) -> bool:
        return bool(getattr(self.trainer.model, "automatic_optimization", True))


def _steps(count: int) -> LoopProgress:
    counts = Counts(count, count, count, count)
    return LoopProgress(counts, counts)


class EvaluationLoopView(View):
    """``trainer.validate_loop``, ``test_loop`` and ``predict_loop``: what they read."""

    _place = "An evaluation's loop"
    _own = ("trainer", "stage", "_inside_fit")

    def __init__(self, run: Run, stage: str, *, inside_fit: bool = False) -> None:
        self.trainer = run
        self.stage = stage
        self._inside_fit = inside_fit

    @property
    def max_batches(self) -> list[int | float]:
        """Batches of each loader, limits included; infinity where unknown."""
        return self.trainer.leyden_loaders.num_eval_batches(self.stage)

    @property
    def num_dataloaders(self) -> int:
        return len(self.max_batches)

    @property
    def inference_mode(self) -> bool:
        return self.trainer.leyden_options.behaviour.inference_mode and not self._inside_fit

    @property
    def _data_source(self) -> DataSource:
        return _data_source(self.trainer, self.stage)


class PredictLoopView(EvaluationLoopView):
    """``trainer.predict_loop``: what it reads, and what has been predicted so far, where that is kept."""

    @property
    def predictions(self) -> list[Any]:
        """What ``predict_step`` returned for each batch; with several loaders, a list of such lists."""
        predictions = self.trainer.leyden_predicted[0]
        return predictions[0] if len(predictions) == 1 else predictions

    @property
    def epoch_batch_indices(self) -> list[list[list[Any]]]:
        """For each loader, the indices of each batch's samples, where a prediction writer asks for them."""
        return self.trainer.leyden_predicted[1]

    @property
    def current_batch_indices(self) -> list[Any]:
        """The same of the batch in hand; empty where nobody knows them."""
        source = self.trainer.leyden_loaders.eval.get("predict")
        return [] if source is None else source.batch_indices or []
