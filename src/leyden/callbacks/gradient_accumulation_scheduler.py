"""GradientAccumulationScheduler: another number of batches per optimizer step from given epochs on."""

from collections.abc import Mapping
from typing import Any

from leyden.callback import Callback
from leyden.checked import check_accumulation
from leyden.distributed.rank_zero import rank_zero_warn_user
from leyden.errors import ConflictingOptions, InvalidType, LeydenWarning, Unsupported
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run


@exact_arguments
class GradientAccumulationScheduler(Callback):
    """Set ``trainer.accumulate_grad_batches`` at the start of epochs.

    Args:
        scheduling: Epoch (counted from 0) to number of batches per optimizer step, from that epoch on. Before the first
            epoch named, every batch makes a step. ``{4: 2, 8: 4}``: 1 in epochs 0 to 3, 2 in 4 to 7, then 4.

    Raises:
        InvalidType: no mapping, an empty one, or a value that is no whole number.
        InvalidOption: a negative epoch, or a number of batches below 1.
    """

    def __init__(self, scheduling: Mapping[int, int]) -> None:
        if not scheduling or not isinstance(scheduling, Mapping):
            raise InvalidType("scheduling", scheduling, "a dict {epoch: batches per optimizer step} with at least one entry")
        self.scheduling = dict(sorted({0: 1, **check_accumulation("scheduling", scheduling)}.items()))
        self.epochs = list(self.scheduling)

    def going_to_accumulate_grad_batches(self) -> bool:
        """Whether any epoch takes more than one batch per step."""
        return any(batches > 1 for batches in self.scheduling.values())

    def get_accumulate_grad_batches(self, epoch: int) -> int:
        """Batches per optimizer step in ``epoch``."""
        return self.scheduling[max(start for start in self.epochs if start <= epoch)]

    def on_train_start(self, trainer: Run, pl_module: LightningModule) -> None:
        """Refuse what does not go together with a schedule.

        Raises:
            Unsupported: the module optimizes manually.
            ConflictingOptions: the Trainer has a fixed number, or another schedule.
        """
        if not pl_module.automatic_optimization:
            raise Unsupported(
                "GradientAccumulationScheduler sets when automatic optimization steps, and this module has "
                "automatic_optimization=False. Remove the callback and step the optimizers in training_step when you want to."
            )
        asked = trainer.leyden_options.optimization
        fixed: Any = asked.accumulate if asked.schedule is None else dict(asked.schedule)
        if fixed != 1 and not (asked.schedule is not None and {0: 1, **asked.schedule} == self.scheduling):
            raise ConflictingOptions(
                f"Trainer(accumulate_grad_batches={fixed!r}) and GradientAccumulationScheduler({self.scheduling!r}) both say how "
                f"many batches make a step. Leave one of them out."
            )
        for hook in (LightningModule.optimizer_step, LightningModule.optimizer_zero_grad):
            if overrides(pl_module, hook) and self.going_to_accumulate_grad_batches():
                rank_zero_warn_user(
                    f"{type(pl_module).__name__} overrides {hook.__name__}: it is called only when a window of batches is full.",
                    category=LeydenWarning,
                )
        self.__apply(trainer)  # a run that resumes in the middle of an epoch starts none

    def on_train_epoch_start(self, trainer: Run, pl_module: LightningModule) -> None:
        self.__apply(trainer)

    def __apply(self, trainer: Run) -> None:
        trainer.accumulate_grad_batches = self.get_accumulate_grad_batches(trainer.current_epoch)
