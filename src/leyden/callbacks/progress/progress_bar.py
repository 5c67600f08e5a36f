"""ProgressBar: what every progress bar knows about the run. It draws nothing."""

import importlib
import inspect
from typing import Any, ClassVar

from leyden.callback import Callback
from leyden.constructed import read_again
from leyden.distributed.rank_zero import print_if_open
from leyden.errors import MisconfigurationException, UnknownName
from leyden.module import LightningModule
from leyden.notices import notice
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.types import STEP_OUTPUT

_TQDM = "leyden.callbacks.progress.tqdm_progress"
_SETS_UP_TQDM = [f"init_{what}_tqdm" for what in ("sanity", "train", "validation", "test", "predict")]
Metrics = dict[str, int | str | float | dict[str, float]]


def _makes_a_bar(method: Any) -> bool:
    """Whether TQDMProgressBar may call it: it asks for no more than ``self``. Bars that draw by themselves have their own."""
    if method is None:
        return False
    try:
        inspect.signature(method).bind(None)
    except TypeError:
        return False
    return True


@exact_arguments
class ProgressBar(Callback):
    """Base of all progress bars. One of your own overrides the hooks in which it draws.

    A trainer takes one progress bar at most.
    """

    is_progress_bar: ClassVar[bool] = True
    """By this the trainer knows its progress bar."""
    leyden_reads_epoch_metrics: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """A bar of the user's own that says how tqdm is set up is a TQDMProgressBar: up to 1.4 that was called ProgressBar."""
        super().__init_subclass__(**kwargs)
        if ProgressBar in cls.__bases__ and cls.__module__ != _TQDM and any(map(_makes_a_bar, map(vars(cls).get, _SETS_UP_TQDM))):
            tqdm_bar = importlib.import_module(_TQDM).TQDMProgressBar
            notice(f"class {cls.__name__}(ProgressBar)", f"class {cls.__name__}(TQDMProgressBar)")
            cls.__bases__ = tuple(tqdm_bar if base is ProgressBar else base for base in cls.__bases__)

    def __init__(self, *args: Any, **older: Any) -> None:
        if args or older:
            return self.leyden_become_tqdm(*args, **older)
        self._trainer: Run | None = None
        self._enabled = True
        self._current_eval_dataloader_idx: int | None = None
        self.leyden_newest: tuple[int, int] = (0, 0)  # the loader, and how many of its batches are done

    def leyden_become_tqdm(self, *args: Any, **older: Any) -> None:
        """``ProgressBar(refresh_rate=20)``, up to 1.4."""
        if type(self) is not ProgressBar:
            name = type(self).__name__
            raise UnknownName(f"ProgressBar.__init__ takes no argument. Begin with class {name}(TQDMProgressBar), which does.")
        notice("ProgressBar(...)", "TQDMProgressBar(...)")
        tqdm_bar = importlib.import_module(_TQDM).TQDMProgressBar
        self.__class__ = tqdm_bar
        tqdm_bar.__init__(self, *args, **older)

    def __getattr__(self, name: str) -> Any:
        """Counts that 1.x's bars had beside these: ``train_batch_idx``, ``val_batch_idx``, ``total_test_batches`` and so on."""
        stage = name.removesuffix("_batch_idx")
        if stage in ("train", "val", "test", "predict") and stage != name:
            notice(f"{type(self).__name__}.{name}", "the hook's batch_idx, counted from 1")
            return self.trainer.leyden_fit.progress.batch if stage == "train" else self.leyden_batches_done(stage)
        if name in ("total_test_batches", "total_predict_batches"):
            notice(f"{type(self).__name__}.{name}", f"sum(self.trainer.num_{name.removeprefix('total_')})")
            return sum(getattr(self.trainer, name.replace("total", "num")))
        return read_again(self, name)

    def leyden_batches_done(self, stage: str) -> int:
        """Batches of all loaders of ``stage`` that are done."""
        loader, batches = self.leyden_newest
        return batches + sum(int(each) for each in getattr(self.trainer, f"num_{stage}_batches")[:loader])

    def on_validation_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.leyden_newest = 0, 0

    def on_validation_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.leyden_newest = dataloader_idx, batch_idx + 1

    def on_test_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.leyden_newest = dataloader_idx, batch_idx + 1

    def on_predict_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.leyden_newest = dataloader_idx, batch_idx + 1

    # -- switched on or off
    @property
    def is_enabled(self) -> bool:
        """Whether the bar draws."""
        return self._enabled

    @property
    def is_disabled(self) -> bool:
        """Whether the bar draws nothing."""
        return not self.is_enabled

    def disable(self) -> None:
        """Draw nothing from here on. Called on every process but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Draw again."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print without disturbing the bar. A standard output that is closed or full is no reason to end a run."""
        print_if_open(*args, **kwargs)

    # -- the run
    @property
    def trainer(self) -> Run:
        """The trainer whose progress is shown."""
        if self._trainer is None:
            raise MisconfigurationException(
                f"{type(self).__name__}.trainer is there once a verb runs; before it the bar belongs to no trainer."
            )
        return self._trainer

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer
        self._current_eval_dataloader_idx = None
        self.leyden_newest = 0, 0
        if not trainer.is_global_zero:
            self.disable()

    # -- what it says
    @property
    def sanity_check_description(self) -> str:
        return "Sanity Checking"

    @property
    def train_description(self) -> str:
        return "Training"

    @property
    def validation_description(self) -> str:
        return "Validation"

    @property
    def test_description(self) -> str:
        return "Testing"

    @property
    def predict_description(self) -> str:
        return "Predicting"

    # -- how much there is to do
    @property
    def total_train_batches(self) -> int | float:
        """Batches of the training epoch; infinity where the loader does not tell."""
        return self.trainer.num_training_batches

    @property
    def total_val_batches(self) -> int | float:
        """Batches of all validation loaders together; 0 in an epoch of a fit that has no validation."""
        run = self.trainer
        every = run.check_val_every_n_epoch
        return 0 if run.training and every and (run.current_epoch + 1) % every else sum(run.num_val_batches)

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        """Batches of the validation loader that is being read, of the sanity check while that runs."""
        run = self.trainer
        return self.leyden_of_current(run.num_sanity_val_batches if run.sanity_checking else run.num_val_batches)

    @property
    def total_test_batches_current_dataloader(self) -> int | float:
        """Batches of the test loader that is being read."""
        return self.leyden_of_current(self.trainer.num_test_batches)

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        """Batches of the loader to predict that is being read."""
        return self.leyden_of_current(self.trainer.num_predict_batches)

    def leyden_of_current(self, batches: list[int | float]) -> int | float:
        index = self._current_eval_dataloader_idx or 0
        return batches[index] if index < len(batches) else float("inf")

    def has_dataloader_changed(self, dataloader_idx: int) -> bool:
        """Whether another loader is being read than at the last call."""
        before, self._current_eval_dataloader_idx = self._current_eval_dataloader_idx, dataloader_idx
        return before != dataloader_idx

    def reset_dataloader_idx_tracker(self) -> None:
        """Forget which loader was being read."""
        self._current_eval_dataloader_idx = None

    def get_metrics(self, trainer: Run, pl_module: LightningModule) -> Metrics:
        """What the bar shows: the version of the first logger (``v_num``), the running loss, and metrics logged with
        ``prog_bar=True``. Override it to show something else. Reading it waits for the device.
        """
        shown: Metrics = get_standard_metrics(trainer)
        metrics = trainer.progress_bar_metrics
        loss = metrics.get("loss", trainer.leyden_fit.losses.latest if trainer.leyden_fitting else None)
        if loss is not None:  # the bar of a fit shows it, whatever is logged
            shown["loss"] = float(trainer.leyden_metrics.read({"loss": loss})["loss"])  # first of all
        shown.update(metrics)
        return shown


def get_standard_metrics(trainer: Run) -> Metrics:
    """What a bar shows of every run: the version of the first logger, ``v_num``, at most its last four characters."""
    version = trainer.loggers[0].version if trainer.loggers else None
    return {} if version is None or version == "" else {"v_num": str(version)[-4:]}
