"""The learning-rate range test: training with a rate that rises at every step, until the loss says that it is too high.

After Leslie N. Smith, Cyclical Learning Rates for Training Neural Networks, 2017.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import torch

from leyden.callback import Callback
from leyden.callbacks.progress.tqdm_progress import Tqdm
from leyden.checked import check_count, check_number
from leyden.distributed.rank_zero import rank_zero_info
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType, LeydenWarning, MissingPackage, Unsupported
from leyden.module import LightningModule
from leyden.state.course import Wish
from leyden.state.optimizers import OptimizerPlan, SchedulerPlan
from leyden.state.run import Run
from leyden.tuner.aside import untraced
from leyden.tuner.holders import learning_rate_of
from leyden.tuner.settings import adopt_settings, set_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_log = logging.getLogger("leyden")
MODES = ("linear", "exponential")
_MEMORY = 0.98
"""How much of the mean loss stays at each step; the new loss has the rest."""


def check_search(
    min_lr: Any, max_lr: Any, num_training: Any, mode: Any, early_stop_threshold: Any, attr_name: Any, count_name: str
) -> str:
    """Raise :class:`InvalidOption` for what cannot be used; returns the mode in its one spelling."""
    if not isinstance(mode, str) or mode.lower() not in MODES:
        raise InvalidOption("mode", mode, "'exponential' or 'linear'")
    low, high = (check_number(name, value, "a learning rate") for name, value in (("min_lr", min_lr), ("max_lr", max_lr)))
    if not math.isfinite(low) or low < 0 or (mode.lower() == "exponential" and low == 0):
        raise InvalidOption("min_lr", min_lr, "a learning rate above 0 (mode='linear' may begin at 0)")
    if not math.isfinite(high) or high <= low:
        raise InvalidOption("max_lr", max_lr, f"a learning rate above min_lr={min_lr!r}")
    check_count(count_name, num_training, 1, "a number of steps >= 1")
    if early_stop_threshold is not None:
        threshold = check_number("early_stop_threshold", early_stop_threshold, "a number above 0, or None")
        if not threshold > 0:
            raise InvalidOption("early_stop_threshold", early_stop_threshold, "a number above 0, or None")
    if not isinstance(attr_name, str):
        raise InvalidType("attr_name", attr_name, "an attribute's name, or '' for lr or learning_rate")
    return mode.lower()


class _LRFinder:
    """What a search has found.

    Args:
        mode: ``"exponential"`` or ``"linear"``: how the rate rose from step to step.
        lr_min: The rate of the first step.
        lr_max: The rate of the last, where it came so far.
        num_training: The steps that it was to have.

    Attributes:
        results: ``{"lr": [...], "loss": [...]}``, of each step its rate, and the running mean of the losses up to it.
    """

    def __init__(self, mode: str, lr_min: float, lr_max: float, num_training: int) -> None:
        self.mode = check_search(lr_min, lr_max, num_training, mode, None, "", "num_training")
        self.lr_min = lr_min
        self.lr_max = lr_max
        self.num_training = num_training
        self.results: dict[str, Any] = {}
        self._total_batch_idx = 0  # of the last batch, counted from 0
        self._optimal_idx: int | None = None

    def rate(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step == 0:
            return self.lr_min
        share = (step + 1) / self.num_training
        if self.mode == "linear":
            return self.lr_min + share * (self.lr_max - self.lr_min)
        return float(self.lr_min * (self.lr_max / self.lr_min) ** share)

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        """The rate at which the loss falls most steeply; ``None``, which is logged, where there are too few points to say.

        Args:
            skip_begin: Points that are left out at the beginning, where the mean has seen few losses.
            skip_end: Points that are left out at the end, where training is about to diverge.
        """
        check_count("skip_begin", skip_begin, 0, "a number of points >= 0")
        check_count("skip_end", skip_end, 0, "a number of points >= 0")
        lrs, losses = self.results.get("lr", []), self.results.get("loss", [])
        chosen = [index for index in range(skip_begin, len(losses) - skip_end) if math.isfinite(losses[index])]
        self._optimal_idx = None
        if len(chosen) < 2:
            _log.error(
                "Failed to compute suggestion for learning rate: a slope takes 2 points, and of %d there are %d after "
                "skip_begin=%d and skip_end=%d. Take more steps (num_training), or skip fewer.",
                *(len(losses), len(chosen), skip_begin, skip_end),
            )
            return None
        slopes = torch.gradient(
            torch.tensor([losses[index] for index in chosen]), spacing=[torch.tensor([lrs[index] for index in chosen])]
        )[0]
        self._optimal_idx = chosen[int(torch.argmin(slopes))]
        return float(lrs[self._optimal_idx])

    def plot(self, suggest: bool = False, show: bool = False, ax: Axes | None = None) -> Figure | SubFigure | None:
        """Draw the loss over the rate, and return the figure.

        Args:
            suggest: Mark :meth:`suggestion` with a red point.
            show: Show the figure.
            ax: Where to draw; by default, in a new figure.

        Raises:
            MissingPackage: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise MissingPackage("matplotlib", "plot()") from error
        figure: Any
        if ax is None:
            figure, ax = plt.subplots()
        else:
            figure = ax.figure
        lrs, losses = self.results["lr"], self.results["loss"]
        ax.plot(lrs, losses)
        if self.mode == "exponential":
            ax.set_xscale("log")
        ax.set_xlabel("Learning rate")
        ax.set_ylabel("Loss")
        if suggest and self.suggestion() is not None:
            assert self._optimal_idx is not None
            ax.plot(lrs[self._optimal_idx], losses[self._optimal_idx], markersize=10, marker="o", color="red")
        if show:
            plt.show()
        return figure  # type: ignore[no-any-return]  # matplotlib's types are not at hand

    # -- in a checkpoint
    def _state(self) -> dict[str, Any]:
        arguments = {"mode": self.mode, "lr_min": self.lr_min, "lr_max": self.lr_max, "num_training": self.num_training}
        return {**arguments, "results": self.results, "total_batch_idx": self._total_batch_idx}

    @classmethod
    def _of(cls, state: dict[str, Any]) -> _LRFinder:
        finder = cls(*(state[name] for name in ("mode", "lr_min", "lr_max", "num_training")))
        finder.results, finder._total_batch_idx = state["results"], state["total_batch_idx"]
        return finder


class _Ramp:
    """A scheduler in the place of the module's own: each step takes the next rate."""

    def __init__(self, optimizer: Any, finder: _LRFinder) -> None:
        self.optimizer = optimizer
        self.finder = finder
        self.last_epoch = 0
        self._set()

    @property
    def lr(self) -> float:
        return self.finder.rate(self.last_epoch)

    def get_last_lr(self) -> list[float]:
        return [self.lr for _ in self.optimizer.param_groups]

    def step(self, *_: Any, **__: Any) -> None:
        self.last_epoch += 1
        self._set()

    def _set(self) -> None:
        for group in self.optimizer.param_groups:
            set_rate(group, self.lr)

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch = state_dict["last_epoch"]


class _Losses(Callback):
    """Notes each step's rate and the running mean of the losses, and ends the search when they diverge."""

    def __init__(self, ramp: _Ramp, threshold: float | None, bar: Tqdm) -> None:
        self.ramp = ramp
        self.threshold = threshold
        self.bar = bar
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.diverged = False
        self._mean = self._best = 0.0
        self._rate = ramp.lr
        self._of_window: list[float] = []
        self._is_over = False

    def on_train_batch_start(self, trainer: Any, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._rate = self.ramp.lr

    def on_train_batch_end(self, trainer: Any, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else None
        if loss is not None:
            self._of_window.append(float(loss))
        if self._is_over or trainer.leyden_fit.progress.window:
            return
        self.lrs.append(self._rate)
        # the loss of all processes: one of them alone has seen half of the batch, and would find another rate
        mine = torch.tensor([sum(self._of_window), len(self._of_window)], dtype=torch.float64)
        total, count = trainer.strategy.leyden_peers.all_reduce(mine).tolist()
        self.losses.append(self._note(total / count) if count else math.nan)
        self._of_window = []
        steps = self.ramp.finder.num_training
        self.bar.update()
        if len(self.lrs) % max(1, steps // 100) == 0:
            self.bar.refresh()
        if self.diverged or len(self.lrs) == steps:
            self._is_over = True
            trainer.leyden_fit.course.wish(Wish.STOP)

    def _note(self, loss: float) -> float:
        step = len(self.lrs)  # counted from 1
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * loss
        smooth = self._mean / (1 - _MEMORY ** (step + 1))
        if self.threshold is not None:
            self.diverged = math.isnan(smooth) or (step > 1 and smooth > self.threshold * self._best)
        if smooth < self._best or step == 1:
            self._best = smooth
        return smooth


def find_rate(
    run: Run,
    module: LightningModule,
    *,
    min_lr: float,
    max_lr: float,
    num_training: int,
    mode: str,
    early_stop_threshold: float | None,
    update_attr: bool,
    attr_name: str,
) -> _LRFinder | None:
    """Search in a fit that is set up, and put everything back but for the rate, which is set where ``update_attr`` asks for it.

    Raises:
        UnknownName: there is no rate to set.
        Unsupported: manual optimization, several optimizers, or none.
    """
    if run.fast_dev_run:
        run.leyden_warn("The learning-rate finder does nothing in a run with fast_dev_run.", LeydenWarning)
        return None
    holders = learning_rate_of(module, run.datamodule, attr_name, "attr_name") if update_attr else None
    _refuse(run, module)
    optimizer = run.leyden_fit.plan.optimizers[0]
    finder = _LRFinder(mode, min_lr, max_lr, num_training)
    with (
        untraced(run) as aside,
        Tqdm("Finding best initial lr", total=num_training, disable=not shows_bar(run)) as bar,
    ):
        ramp = _Ramp(optimizer, finder)
        losses = _Losses(ramp, early_stop_threshold, bar)
        aside.train(num_training, losses, plan=OptimizerPlan([optimizer], [SchedulerPlan(ramp, interval="step")]))
        finder._total_batch_idx = max(0, aside.batches - 1)
    processes = run.strategy.processes
    finder.results = processes.broadcast({"lr": losses.lrs, "loss": losses.losses})
    if losses.diverged:
        rank_zero_info(f"The learning-rate finder stopped after {len(losses.lrs)} of {num_training} steps: the loss diverged.")
    if holders is not None:
        lr = finder.suggestion()
        if lr is not None:
            holders.set(lr)
            adopt_settings(run, lr)
            rank_zero_info(f"Learning rate set to {lr}")
    return finder


def shows_bar(run: Run) -> bool:
    """Whether a bar is asked for, and none is drawn yet."""
    return run.is_global_zero and run.leyden_options.watching.progress_bar and run.leyden_fit.progress.batches == 0


def _refuse(run: Run, module: LightningModule) -> None:
    name, optimizers = type(module).__name__, run.leyden_fit.plan.optimizers
    if not module.automatic_optimization:
        raise Unsupported(
            f"{name} optimizes by hand (automatic_optimization = False), and the learning-rate finder cannot know its steps. Set "
            f"the rates yourself, or search with trainer.trial_run(module)."
        )
    if len(optimizers) != 1:
        raise Unsupported(
            f"{name}.configure_optimizers returned {len(optimizers)} optimizers, and the learning-rate finder works with one. "
            f"Set the rates yourself."
        )
    if run.leyden_options.limits.train == 0:
        raise ConflictingOptions("limit_train_batches=0 leaves no batch for the learning-rate finder. Raise it.")
