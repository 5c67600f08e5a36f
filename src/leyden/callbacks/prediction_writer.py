"""BasePredictionWriter: what is predicted goes to disk, with the indices of the samples that it belongs to."""

from collections.abc import Sequence
from typing import Any, Literal

from leyden.callback import Callback
from leyden.enums import LightningEnum
from leyden.errors import InvalidOption, MissingMethod
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.spelling import exact_arguments
from leyden.state.run import Run
from leyden.state.stage import TrainerFn


class WriteInterval(LightningEnum):
    """When a writer writes."""

    BATCH = "batch"
    EPOCH = "epoch"
    BATCH_AND_EPOCH = "batch_and_epoch"

    @property
    def on_batch(self) -> bool:
        return self in (WriteInterval.BATCH, WriteInterval.BATCH_AND_EPOCH)

    @property
    def on_epoch(self) -> bool:
        return self in (WriteInterval.EPOCH, WriteInterval.BATCH_AND_EPOCH)


@exact_arguments
class BasePredictionWriter(Callback):
    """Write predictions as they come, or all of them at the end. Override the method, or both, that ``write_interval`` asks for.

    With ``trainer.predict(..., return_predictions=False)`` and ``write_interval="batch"`` nothing is kept in memory.

    Args:
        write_interval: ``"batch"``: :meth:`write_on_batch_end` is called after each batch. ``"epoch"``:
            :meth:`write_on_epoch_end` is called once, and all predictions are kept until then. ``"batch_and_epoch"``: both.

    Attributes:
        interval: The same, as a :class:`WriteInterval`.

    Raises:
        InvalidOption: another ``write_interval``.
        MissingMethod: (when predicting is set up) the method that it asks for is not overridden.
    """

    leyden_reads_indices = True
    """Asked when the loaders are made: the indices of each batch's samples have to be known."""

    interval = WriteInterval.BATCH  # of a subclass whose constructor does not call this one's

    def __init__(self, write_interval: Literal["batch", "epoch", "batch_and_epoch"] = "batch") -> None:
        words = [interval.value for interval in WriteInterval]
        if write_interval not in words:
            raise InvalidOption("write_interval", write_interval, '"batch", "epoch" or "batch_and_epoch"')
        self.interval = WriteInterval(write_interval)

    @property
    def leyden_keeps_predictions(self) -> bool:
        """Whether all predictions are wanted at the end."""
        return self.interval.on_epoch

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write one batch's predictions.

        Args:
            trainer: The trainer.
            pl_module: The module.
            prediction: What ``predict_step`` returned, on the CPU.
            batch_indices: The indices of the batch's samples in the dataset, as the sampler gave them, in the order of the
                batch; ``None`` where nobody knows them (an ``IterableDataset``, a loader of one's own kind).
            batch: The batch.
            batch_idx: Its number in its loader.
            dataloader_idx: The loader's number.
        """
        raise self.__missing("write_on_batch_end")

    def write_on_epoch_end(
        self, trainer: Any, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write all predictions.

        Args:
            trainer: The trainer.
            pl_module: The module.
            predictions: What ``predict_step`` returned for each batch; with several loaders, a list of such lists.
            batch_indices: For each loader (also where it is the only one) the indices of each batch's samples; an empty list for
                a loader of which nobody knows them.
        """
        raise self.__missing("write_on_epoch_end")

    def setup(self, trainer: Run, pl_module: LightningModule, stage: str) -> None:
        if stage != TrainerFn.PREDICTING:
            return
        for asked, hook in (
            (self.interval.on_batch, BasePredictionWriter.write_on_batch_end),
            (self.interval.on_epoch, BasePredictionWriter.write_on_epoch_end),
        ):
            if asked and not overrides(self, hook):
                raise self.__missing(hook.__name__)

    def on_predict_batch_end(
        self, trainer: Run, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.interval.on_batch:
            indices = trainer.leyden_loaders.eval["predict"].batch_indices
            self.write_on_batch_end(trainer, pl_module, outputs, indices, batch, batch_idx, dataloader_idx)

    def on_predict_epoch_end(self, trainer: Run, pl_module: LightningModule) -> None:
        if self.interval.on_epoch:
            predictions, indices = trainer.leyden_predicted
            self.write_on_epoch_end(trainer, pl_module, predictions[0] if len(predictions) == 1 else predictions, indices)

    def __missing(self, name: str) -> MissingMethod:
        return MissingMethod(
            f"{type(self).__name__} writes with write_interval={self.interval.value!r} and has no method {name}. Override it, or "
            f"choose another interval."
        )
