"""Tuner: look for a learning rate or a batch size before anything else runs."""

from functools import partial
from typing import Any, Literal

from leyden.callbacks.batch_size_finder import BatchSizeFinder
from leyden.callbacks.lr_finder import LearningRateFinder
from leyden.checked import check_bool
from leyden.datamodule import LightningDataModule
from leyden.errors import ConflictingOptions, InvalidOption, InvalidType
from leyden.module import LightningModule
from leyden.spelling import exact_arguments, exact_call
from leyden.state.run import Run
from leyden.state.stage import STAGES, TRAIN, TrainerFn
from leyden.tuner.batch_size_scaling import check_scaling, scale_batch_size
from leyden.tuner.holders import learning_rate_of
from leyden.tuner.lr_finder import _LRFinder, check_search, find_rate

Method = Literal["fit", "validate", "test", "predict"]


@exact_arguments
class Tuner:
    """Searches with the settings of ``trainer``, and leaves nothing behind but the value that it found.

    Each search is a verb of its own, with all of its set-up (``prepare_data``, ``setup``, ``configure_model`` ...). The trainer's
    callbacks and loggers hear nothing of it, and no file is written. To search inside ``fit`` there are
    :class:`~leyden.callbacks.LearningRateFinder` and :class:`~leyden.callbacks.BatchSizeFinder`.
    """

    def __init__(self, trainer: Any) -> None:
        if not isinstance(trainer, Run):
            raise InvalidType("trainer", trainer, "a leyden.Trainer")
        self._trainer: Any = trainer

    @exact_call
    def scale_batch_size(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: Method = "fit",
        mode: str = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> int | None:
        """The largest batch size that does not run out of memory; it is set where ``batch_arg_name`` stands.

        Args:
            model: The module.
            train_dataloaders, val_dataloaders, dataloaders: A datamodule. Loaders have a batch size already, and are refused.
            datamodule: Where loaders come from; by default, the module.
            method: The verb that is to fit into memory: ``"fit"``, ``"validate"``, ``"test"`` or ``"predict"``.
            mode: ``"power"``: twice as much each time, until it does not fit. ``"binsearch"``: then between what fits and what
                not.
            steps_per_trial: Steps that are run with each size.
            init_val: The first size.
            max_trials: Sizes that may fit before the search ends.
            batch_arg_name: Which attribute holds the batch size, of module, datamodule or their hparams.
            margin: The share by which the size that ``"binsearch"`` found is reduced.
            max_val: The largest size to try.

        Returns:
            The size; ``None`` in a trainer with ``fast_dev_run``, which is said.

        Raises:
            InvalidOption, ConflictingOptions: an argument that cannot be used.
            UnknownName: there is no such attribute.
            Unsupported: loaders that were passed, several loaders to evaluate, several processes.
            MisconfigurationException: not even one sample fits.
        """
        fn = _check_loaders(method, train_dataloaders, val_dataloaders, dataloaders)
        mode = check_scaling(mode, steps_per_trial, init_val, max_trials, batch_arg_name, margin, max_val)
        _refuse_twice(self._trainer, BatchSizeFinder)
        stage = STAGES[fn][0]

        search = partial(
            scale_batch_size,
            stage=stage,
            mode=mode,
            steps_per_trial=steps_per_trial,
            init_val=init_val,
            max_trials=max_trials,
            batch_arg_name=batch_arg_name,
            margin=margin,
            max_val=max_val,
        )
        loaders = {stage.key: train_dataloaders, "val": val_dataloaders} if stage is TRAIN else {stage.key: dataloaders}
        found: int | None = self._trainer.leyden_search(fn, model, loaders, datamodule, search)
        return found

    @exact_call
    def lr_find(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: Method = "fit",
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training: int = 100,
        mode: str = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> _LRFinder | None:
        """Train with a rate that rises, and suggest the one at which the loss falls most steeply.

        Args:
            model: The module.
            train_dataloaders: What to train on, or a datamodule; by default, the module's own loader.
            val_dataloaders: Taken, and not read: the search does not validate.
            dataloaders: Of other methods than ``"fit"``, so none here.
            datamodule: Where loaders come from, instead.
            method: ``"fit"``.
            min_lr: The first rate.
            max_lr: The last one.
            num_training: Steps to take between them.
            mode: ``"exponential"`` or ``"linear"``: how the rate rises.
            early_stop_threshold: The search ends when the running mean of the loss exceeds this many times its lowest; ``None``:
                never.
            update_attr: Set the suggested rate in the attribute.
            attr_name: Which attribute holds the rate, of module, datamodule or their hparams. Default: ``lr`` or
                ``learning_rate``.

        Returns:
            What was found, with ``results``, ``suggestion()`` and ``plot()``; ``None`` in a trainer with ``fast_dev_run``, which
            is said.

        Raises:
            InvalidOption, ConflictingOptions: an argument that cannot be used.
            UnknownName: there is no rate to set.
            Unsupported: manual optimization, or more than one optimizer.
        """
        if method != "fit":
            raise InvalidOption("method", method, "'fit': a learning rate is searched by training")
        _check_loaders(method, train_dataloaders, val_dataloaders, dataloaders)
        check_bool("update_attr", update_attr)
        mode = check_search(min_lr, max_lr, num_training, mode, early_stop_threshold, attr_name, "num_training")
        _refuse_twice(self._trainer, LearningRateFinder)
        search = partial(
            find_rate,
            min_lr=min_lr,
            max_lr=max_lr,
            num_training=num_training,
            mode=mode,
            early_stop_threshold=early_stop_threshold,
            update_attr=update_attr,
            attr_name=attr_name,
        )
        loaders = {"train": train_dataloaders, "val": val_dataloaders}
        found: _LRFinder | None = self._trainer.leyden_search(TrainerFn.FITTING, model, loaders, datamodule, search)
        rate = found.suggestion() if found is not None and update_attr else None
        if rate is not None:  # once more: new processes have set it for themselves
            given = train_dataloaders if isinstance(train_dataloaders, LightningDataModule) else datamodule
            learning_rate_of(model, given, attr_name, "attr_name").set(rate)
        return found


def _refuse_twice(run: Run, kind: type) -> None:
    if any(isinstance(callback, kind) for callback in run.callbacks):
        raise ConflictingOptions(
            f"The Trainer has a {kind.__name__} among its callbacks, which searches in fit. Remove it, or do without the Tuner."
        )


def _check_loaders(method: Any, train: Any, val: Any, others: Any) -> TrainerFn:
    if method not in ("fit", "validate", "test", "predict"):
        raise InvalidOption("method", method, "'fit', 'validate', 'test' or 'predict'")
    if method == "fit" and others is not None:
        raise ConflictingOptions("dataloaders= is for validate, test and predict. With method='fit' pass train_dataloaders=.")
    if method != "fit" and (train is not None or val is not None):
        raise ConflictingOptions(f"train_dataloaders= and val_dataloaders= are for fit. For {method} pass dataloaders=.")
    return TrainerFn(method)
