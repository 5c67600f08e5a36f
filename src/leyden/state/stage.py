"""Which verb runs, and in which of its stages; and of each stage every name under which it is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leyden.callback import Callback
from leyden.enums import LightningEnum
from leyden.module import LightningModule
from leyden.options import Limits


class TrainerStatus(LightningEnum):
    """How far the last verb has come."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"

    @property
    def stopped(self) -> bool:
        return self in (TrainerStatus.FINISHED, TrainerStatus.INTERRUPTED)


class TrainerFn(LightningEnum):
    """The verb that runs."""

    FITTING = "fit"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"


class RunningStage(LightningEnum):
    """What a verb is doing at the moment."""

    TRAINING = "train"
    SANITY_CHECKING = "sanity_check"
    VALIDATING = "validate"
    TESTING = "test"
    PREDICTING = "predict"

    @property
    def evaluating(self) -> bool:
        return self in (RunningStage.VALIDATING, RunningStage.TESTING, RunningStage.SANITY_CHECKING)

    @property
    def dataloader_prefix(self) -> str | None:
        if self in (RunningStage.VALIDATING, RunningStage.SANITY_CHECKING):
            return "val"
        return str(self.value)


@dataclass
class TrainerState:
    """The verb, its stage and its status, as ``trainer.state`` shows them."""

    status: TrainerStatus = TrainerStatus.INITIALIZING
    fn: TrainerFn | None = None
    stage: RunningStage | None = None

    @property
    def finished(self) -> bool:
        return self.status is TrainerStatus.FINISHED

    @property
    def stopped(self) -> bool:
        return self.status.stopped


Hook = Callable[..., Any]


@dataclass(frozen=True)
class StageHooks:
    """The hooks of a stage, in the order in which they fire."""

    start: Hook
    epoch_start: Hook
    batch_start: Hook
    batch_end: Hook
    epoch_end: Hook
    end: Hook
    # around all of these, of the module alone; training has none
    model_eval: Hook | None = None
    model_train: Hook | None = None


@dataclass(frozen=True)
class Stage:
    """One way to go through a loader's batches, and every name under which it is known."""

    key: str
    """Of its loaders, its metrics and its limit; checkpoints hold it too."""
    verb: TrainerFn
    running: RunningStage
    step: Hook
    loader: Hook
    """What makes its loaders: a datamodule has one of the same name."""
    hooks: StageHooks

    @property
    def limit_option(self) -> str:
        """The Trainer's keyword that bounds its batches."""
        return f"limit_{self.key}_batches"

    def limit(self, limits: Limits) -> int | float:
        """How many batches of each loader are used, or which share of them."""
        found: int | float = getattr(limits, self.key)
        return found


TRAIN = Stage(
    "train",
    TrainerFn.FITTING,
    RunningStage.TRAINING,
    LightningModule.training_step,
    LightningModule.train_dataloader,
    StageHooks(
        *(Callback.on_train_start, Callback.on_train_epoch_start),
        *(Callback.on_train_batch_start, Callback.on_train_batch_end),
        *(Callback.on_train_epoch_end, Callback.on_train_end),
    ),
)
VAL = Stage(
    "val",
    TrainerFn.VALIDATING,
    RunningStage.VALIDATING,
    LightningModule.validation_step,
    LightningModule.val_dataloader,
    StageHooks(
        *(Callback.on_validation_start, Callback.on_validation_epoch_start),
        *(Callback.on_validation_batch_start, Callback.on_validation_batch_end),
        *(Callback.on_validation_epoch_end, Callback.on_validation_end),
        *(LightningModule.on_validation_model_eval, LightningModule.on_validation_model_train),
    ),
)
TEST = Stage(
    "test",
    TrainerFn.TESTING,
    RunningStage.TESTING,
    LightningModule.test_step,
    LightningModule.test_dataloader,
    StageHooks(
        *(Callback.on_test_start, Callback.on_test_epoch_start),
        *(Callback.on_test_batch_start, Callback.on_test_batch_end),
        *(Callback.on_test_epoch_end, Callback.on_test_end),
        *(LightningModule.on_test_model_eval, LightningModule.on_test_model_train),
    ),
)
PREDICT = Stage(
    "predict",
    TrainerFn.PREDICTING,
    RunningStage.PREDICTING,
    LightningModule.predict_step,
    LightningModule.predict_dataloader,
    StageHooks(
        *(Callback.on_predict_start, Callback.on_predict_epoch_start),
        *(Callback.on_predict_batch_start, Callback.on_predict_batch_end),
        *(Callback.on_predict_epoch_end, Callback.on_predict_end),
        *(LightningModule.on_predict_model_eval, LightningModule.on_predict_model_train),
    ),
)
STAGES: dict[TrainerFn, tuple[Stage, ...]] = {
    TrainerFn.FITTING: (TRAIN, VAL, TEST),  # fast_dev_run ends with a test
    TrainerFn.VALIDATING: (VAL,),
    TrainerFn.TESTING: (TEST,),
    TrainerFn.PREDICTING: (PREDICT,),
}
"""The stages of each verb: it begins with the first, and the others have their data at hand."""
