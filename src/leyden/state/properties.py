"""What may be read off a run: every property that a trainer shows, derived from the parts that own the facts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from leyden import asked
from leyden.asked import Asked, batches_of, callbacks_with, given_loaders, in_stage, minus_one_without, of_strategy, reads
from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.devices.precision import Precision
from leyden.errors import InvalidType, Unsupported
from leyden.hooks import overrides
from leyden.loggers.base import Logger, folder_of, is_logger
from leyden.metrics.metrics import Metrics
from leyden.module import LightningModule
from leyden.options import Options
from leyden.state.fit_state import FitState
from leyden.state.loaders import Loaders
from leyden.state.optimizers import SchedulerPlan
from leyden.state.progress import Done
from leyden.state.stage import RunningStage, TrainerFn, TrainerState, TrainerStatus
from leyden.strategies.base import Strategy
from leyden.validation_schedule import batches_between


class Properties:
    """The readable face of a :class:`~leyden.state.run.Run`. It holds nothing: the attributes below are Run's."""

    leyden_options: Options
    strategy: Strategy
    _loggers: list[Logger]
    callbacks: list[Callback]
    datamodule: LightningDataModule | None
    state: TrainerState
    leyden_metrics: Metrics
    leyden_loaders: Loaders
    leyden_bar_items: Any
    leyden_fit: FitState
    leyden_own_optimization: Any
    _module: LightningModule | None

    # -- what was asked for, and may be asked for anew between verbs
    max_epochs = Asked[int | None]("limits", "max_epochs", minus_one_without)
    """Epochs at which training ends; ``-1`` for no limit where another limit was given."""
    min_epochs = Asked[int]("limits", "min_epochs")
    max_steps = Asked[int]("limits", "max_steps", minus_one_without)
    """Optimizer steps at which training ends; ``-1`` for no limit."""
    min_steps = Asked[int | None]("limits", "min_steps", asked.none_without)
    limit_train_batches = Asked[int | float]("limits", "train")
    limit_val_batches = Asked[int | float]("limits", "val")
    limit_test_batches = Asked[int | float]("limits", "test")
    limit_predict_batches = Asked[int | float]("limits", "predict")
    overfit_batches = Asked[int | float]("limits", "overfit")
    check_val_every_n_epoch = Asked[int | None]("validation", "every_n_epochs")
    val_check_interval = Asked[Any]("validation", "interval")
    num_sanity_val_steps = Asked[int | float]("validation", "sanity_batches", lambda most: float("inf") if most is None else most)
    reload_dataloaders_every_n_epochs = Asked[int]("behaviour", "reload_every_n_epochs")
    gradient_clip_val = Asked[float | None]("optimization", "clip_value")
    gradient_clip_algorithm = Asked[str | None]("optimization", "clip_algorithm")
    log_every_n_steps = Asked[int]("watching", "log_every_n_steps")

    # -- parts
    @property
    def lightning_module(self) -> LightningModule:
        """The user's module, unwrapped; ``None`` before the first verb."""
        return self._module  # type: ignore[return-value]  # a verb runs wherever it is used

    @property
    def model(self) -> nn.Module | None:
        """The module as training enters it, in a wrapper of the strategy's where it has one; ``None`` before the first verb."""
        return (self.state.stage and self.strategy.model) or self._module

    @property
    def logger(self) -> Logger | None:
        """The first logger, or ``None``. May be set: it is the only one then."""
        return self._loggers[0] if self._loggers else None

    @logger.setter
    def logger(self, logger: Logger | None) -> None:
        self.loggers = [] if logger is None else [logger]

    @property
    def loggers(self) -> list[Logger]:
        """The loggers. May be set; ``None`` means none."""
        return self._loggers

    @loggers.setter
    def loggers(self, loggers: list[Logger] | None) -> None:
        for logger in loggers or ():
            if not is_logger(logger):
                raise InvalidType("logger", logger, "a Logger, or None for none")
        self._loggers = list(loggers or ())

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that ``configure_optimizers`` returned. In ``on_fit_start``, and before an epoch, others may be set."""
        return self.leyden_fit.plan.optimizers

    @optimizers.setter
    def optimizers(self, optimizers: list[Optimizer]) -> None:
        fit, automatic = self.leyden_fit, getattr(self._module, "automatic_optimization", False)
        if self.leyden_fitting and fit.pending is None and Done.CHECKED < fit.progress.done < Done.EPOCH_TOLD:
            raise Unsupported("trainer.optimizers was set inside an epoch. Set it in on_fit_start, or in on_train_epoch_start.")
        fit.plan.take(optimizers, one=automatic and self.leyden_own_optimization is None)
        if fit.optimization is not None:
            fit.optimization.close()
            fit.optimization = None  # another is made for them

    @property
    def lr_scheduler_configs(self) -> list[SchedulerPlan]:
        """The schedulers that ``configure_optimizers`` returned, each with its interval, frequency and monitor."""
        return self.leyden_fit.plan.schedulers

    precision_plugin: Precision = of_strategy("precision")

    @property
    def precision(self) -> str:
        """The precision in Lightning's words, such as ``"32-true"`` or ``"bf16-mixed"``."""
        return self.strategy.precision.precision

    @property
    def scaler(self) -> Any:
        """The gradient scaler of ``16-mixed``, or ``None``."""
        return getattr(self.strategy.precision, "scaler", None)

    accelerator: Any = of_strategy("accelerator")

    # -- where we are
    @property
    def current_epoch(self) -> int:
        """Epochs that have ended; during an epoch, its number from 0."""
        return self.leyden_fit.progress.number

    @property
    def global_step(self) -> int:
        """Optimizer steps taken in training, however many optimizers there are."""
        return self.leyden_fit.progress.step

    @property
    def fast_dev_run(self) -> int | bool:
        """Of a smoke run its number of batches, or ``True`` for one; else ``False``."""
        batches = self.leyden_options.limits.fast_dev_run
        return batches if batches > 1 else batches == 1

    barebones: bool = reads(lambda run: run.leyden_options.behaviour.barebones)
    training: bool = in_stage(RunningStage.TRAINING)
    validating: bool = in_stage(RunningStage.VALIDATING)
    testing: bool = in_stage(RunningStage.TESTING)
    predicting: bool = in_stage(RunningStage.PREDICTING)
    sanity_checking: bool = in_stage(RunningStage.SANITY_CHECKING)

    interrupted: bool = reads(lambda run: run.state.status is TrainerStatus.INTERRUPTED, "Whether an error ended the last verb.")

    @property
    def evaluating(self) -> bool:
        return self.state.stage is not None and self.state.stage.evaluating

    leyden_fitting: bool = reads(lambda run: run.state.fn is TrainerFn.FITTING)

    @contextmanager
    def leyden_in_stage(self, stage: RunningStage) -> Iterator[None]:
        """Be in ``stage`` for a while."""
        before, self.state.stage = self.state.stage, stage
        yield
        self.state.stage = before  # after an error it stays, for those who are told of it

    # -- metrics
    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        """The newest value of everything that was logged, as 0-dim tensors on their device."""
        return self.leyden_metrics.callback()

    @property
    def logged_metrics(self) -> dict[str, Tensor]:
        """What was last sent to the loggers."""
        return self.leyden_metrics.logged()

    @property
    def progress_bar_metrics(self) -> dict[str, float]:
        """What was logged for the progress bar; the loss, where nothing is logged. Reading it waits for the device."""
        shown = self.leyden_metrics.bar(self.leyden_fit.losses.latest if self.leyden_fitting else None)
        return shown if self.leyden_bar_items is None else {**shown, **self.leyden_bar_items()}

    # -- places
    @property
    def default_root_dir(self) -> str:
        """The folder under which everything is written."""
        return self.leyden_options.default_root_dir

    @property
    def log_dir(self) -> str | None:
        """The folder of the first logger that has one, else :attr:`default_root_dir`. No other process is asked."""
        for logger in self.loggers:
            folder = folder_of(logger) or folder_of(logger, "save_dir")
            if folder is not None:
                return folder
        return self.default_root_dir

    # -- processes
    world_size: int = of_strategy("world_size")
    global_rank: int = of_strategy("global_rank")
    local_rank: int = of_strategy("local_rank")
    node_rank: int = of_strategy("node_rank")
    num_nodes: int = of_strategy("num_nodes")
    num_devices: int = of_strategy("num_devices")

    @property
    def is_global_zero(self) -> bool:
        return self.strategy.global_rank == 0

    @property
    def device_ids(self) -> list[int]:
        """Indices of this machine's devices, one for each of its processes."""
        devices = getattr(self.strategy, "parallel_devices", None) or [self.strategy.root_device]
        return [position if device.index is None else device.index for position, device in enumerate(devices)]

    @property
    def distributed_sampler_kwargs(self) -> dict[str, int] | None:
        """How many processes share the data, and which this one is; ``None`` under a strategy of one process."""
        return getattr(self.strategy, "distributed_sampler_kwargs", None)

    # -- loaders
    @property
    def train_dataloader(self) -> Any:
        """What trains, as the user gave it."""
        return self.leyden_loaders.train_given

    val_dataloaders: Any = given_loaders("val")
    test_dataloaders: Any = given_loaders("test")
    predict_dataloaders: Any = given_loaders("predict")

    @property
    def num_training_batches(self) -> int | float:
        """Batches of one training epoch, limits included; infinity where the loader does not tell."""
        return self.leyden_loaders.num_training_batches

    num_val_batches: list[int | float] = batches_of("val")
    num_test_batches: list[int | float] = batches_of("test")
    num_predict_batches: list[int | float] = batches_of("predict")

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates: there is a validation loader, a ``validation_step``, and the limits leave batches."""
        if self._module is None or self.leyden_options.limits.val == 0:
            return False
        return self.leyden_loaders.exists("val") and overrides(self._module, LightningModule.validation_step)

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """Sanity-check batches of each validation loader."""
        most = self.leyden_options.validation.sanity_batches
        return [batches if most is None else min(batches, most) for batches in self.num_val_batches]

    @property
    def val_check_batch(self) -> int | float | None:
        """Training batches between validations; infinity where unknown, ``None`` before the first fit and by the clock."""
        source = self.leyden_loaders.train
        return None if source is None else batches_between(self.leyden_options.validation, source.stop)

    # -- callbacks by kind, asked by attribute and not by class
    checkpoint_callbacks: list[Any] = callbacks_with(
        "leyden_replaces_default", "best_model_path", doc="Those that write checkpoints."
    )
    leyden_keepers: list[Any] = callbacks_with("best_model_path", doc="Those of them that know which files they wrote.")

    checkpoint_callback: Any = reads(lambda run: next(iter(run.checkpoint_callbacks), None), "The first of them, or ``None``.")

    early_stopping_callbacks: list[Any] = callbacks_with("stopped_epoch", doc="Every callback that stops by a metric.")

    early_stopping_callback: Any = reads(lambda run: next(iter(run.early_stopping_callbacks), None))

    @property
    def progress_bar_callback(self) -> Any:
        """The callback that draws the progress bar (has ``is_progress_bar``), or ``None``."""
        return next((callback for callback in self.callbacks if getattr(callback, "is_progress_bar", False)), None)
