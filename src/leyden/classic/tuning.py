"""Searches as 0.7 to 1.9 had them: ``Trainer(auto_lr_find=, auto_scale_batch_size=)``, ``trainer.tune`` and its like."""

from __future__ import annotations

from typing import Any

from leyden.callbacks.batch_size_finder import BatchSizeFinder
from leyden.callbacks.lr_finder import LearningRateFinder
from leyden.errors import LeydenWarning
from leyden.state.run import Run
from leyden.tuner.lr_finder import _LRFinder
from leyden.tuner.tuning import Tuner


class BatchSizeFinderOfFit(BatchSizeFinder):
    """``auto_scale_batch_size``: in fit alone."""

    def setup(self, trainer: Run, pl_module: Any, stage: str) -> None:
        if trainer.leyden_fitting:
            super().setup(trainer, pl_module, stage)

    def on_validation_start(self, trainer: Run, pl_module: Any) -> None:
        pass

    def on_test_start(self, trainer: Run, pl_module: Any) -> None:
        pass

    def on_predict_start(self, trainer: Run, pl_module: Any) -> None:
        pass


def tune(
    run: Any,
    model: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    dataloaders: Any = None,
    datamodule: Any = None,
    scale_batch_size_kwargs: dict[str, Any] | None = None,
    lr_find_kwargs: dict[str, Any] | None = None,
    method: str = "fit",
    *,
    train_dataloader: Any = None,
) -> dict[str, Any]:
    """What ``auto_scale_batch_size`` and ``auto_lr_find`` ask for, now; ``fit`` does not search again. Returns what was found."""
    given = {"val_dataloaders": val_dataloaders, "dataloaders": dataloaders, "datamodule": datamodule, "method": method}
    given["train_dataloaders"] = train_dataloader if train_dataloaders is None else train_dataloaders
    finders, run.leyden_classic.finders = run.leyden_classic.finders, []
    if not finders:
        run.leyden_warn(
            "trainer.tune() has nothing to do: neither auto_lr_find nor auto_scale_batch_size was passed to the Trainer. Use "
            "leyden.tuner.Tuner(trainer).",
            LeydenWarning,
        )
    run.callbacks = [callback for callback in run.callbacks if not any(callback is finder for finder in finders)]
    tuner = Tuner(run)
    found: dict[str, Any] = {}
    for finder in sorted(finders, key=lambda each: isinstance(each, LearningRateFinder)):  # the batch size comes first
        if isinstance(finder, LearningRateFinder):
            found["lr_find"] = tuner.lr_find(model, **given, **{"attr_name": finder._attr_name, **(lr_find_kwargs or {})})
        else:
            asked = {"mode": finder._mode, **(scale_batch_size_kwargs or {})}
            found["scale_batch_size"] = tuner.scale_batch_size(model, **given, **asked)
    return found


def lr_find(
    run: Any,
    model: Any,
    train_dataloader: Any = None,
    val_dataloaders: Any = None,
    min_lr: float = 1e-8,
    max_lr: float = 1,
    num_training: int = 100,
    mode: str = "exponential",
    early_stop_threshold: float | None = 4.0,
    num_accumulation_steps: int | None = None,
    *,
    train_dataloaders: Any = None,
    datamodule: Any = None,
    update_attr: bool = False,
    attr_name: str = "",
) -> _LRFinder | None:
    """The search alone: no attribute is set, unless ``update_attr`` asks for it."""
    kept = run.accumulate_grad_batches
    if num_accumulation_steps is not None:
        run.accumulate_grad_batches = num_accumulation_steps
    try:
        return Tuner(run).lr_find(
            model,
            train_dataloader if train_dataloaders is None else train_dataloaders,
            val_dataloaders,
            datamodule=datamodule,
            min_lr=min_lr,
            max_lr=max_lr,
            num_training=num_training,
            mode=mode,
            early_stop_threshold=early_stop_threshold,
            update_attr=update_attr,
            attr_name=attr_name,
        )
    finally:
        if num_accumulation_steps is not None:
            run.accumulate_grad_batches = kept


def scale_batch_size(
    run: Any,
    model: Any,
    mode: str = "power",
    steps_per_trial: int = 3,
    init_val: int = 2,
    max_trials: int = 25,
    batch_arg_name: str = "batch_size",
    *,
    train_dataloader: Any = None,
    **given: Any,
) -> int | None:
    """The search, with ``fit``'s arguments by name."""
    if train_dataloader is not None:
        given["train_dataloaders"] = train_dataloader
    return Tuner(run).scale_batch_size(
        model,
        mode=mode,
        steps_per_trial=steps_per_trial,
        init_val=init_val,
        max_trials=max_trials,
        batch_arg_name=batch_arg_name,
        **given,
    )


class FormerTuner:
    """``trainer.tuner`` of 1.x."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def lr_find(self, model: Any, train_dataloaders: Any = None, val_dataloaders: Any = None, **given: Any) -> _LRFinder | None:
        return lr_find(self._run, model, train_dataloaders, val_dataloaders, **given)

    def scale_batch_size(
        self, model: Any, train_dataloaders: Any = None, val_dataloaders: Any = None, **given: Any
    ) -> int | None:
        return scale_batch_size(self._run, model, train_dataloaders=train_dataloaders, val_dataloaders=val_dataloaders, **given)
