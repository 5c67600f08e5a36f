"""Checkpoints of Lightning, old and new: read how far they were, and say it so that Lightning understands ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Progress = Mapping[str, Any]
_OLD_CALLBACK_KEYS = {  # 0.7 to 0.9 kept these at the top level
    "checkpoint_callback_best_model_score": ("ModelCheckpoint", "best_model_score"),
    "checkpoint_callback_best_model_path": ("ModelCheckpoint", "best_model_path"),
    "checkpoint_callback_best": ("ModelCheckpoint", "best_model_score"),
    "early_stop_callback_wait": ("EarlyStopping", "wait_count"),
    "early_stop_callback_patience": ("EarlyStopping", "patience"),
}


def is_foreign(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint was written by something else than leyden."""
    return "leyden" not in checkpoint


def version_of(checkpoint: Mapping[str, Any]) -> tuple[int, ...]:
    """The version of the Lightning that wrote a checkpoint, as numbers; ``(0, 7)`` where it does not say."""
    numbers = re.findall(r"\d+", str(checkpoint.get("pytorch-lightning_version", "0.7")))
    return tuple(int(number) for number in numbers[:3])


def progress_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """How far the training was that wrote a foreign checkpoint, under the names of :class:`leyden.state.progress.Progress`.

    ``step`` counts training steps: where several optimizers step in each batch, Lightning counts each of them. Lightning
    before 1.6 wrote the number of the next epoch, and nothing about batches.
    """
    loops = checkpoint.get("loops") or {}
    fit = loops.get("fit_loop") if isinstance(loops, Mapping) else None
    if version_of(checkpoint) < (1, 6) or not fit or "epoch_progress" not in fit:
        step = int(checkpoint.get("global_step", 0))
        return _progress(epoch=int(checkpoint.get("epoch", 0)), step=step, stepped_batches=step)
    epochs = fit["epoch_progress"]["current"]
    batches = fit["epoch_loop.batch_progress"]
    current, total = batches["current"], batches["total"]
    stepped = fit.get("epoch_loop.state_dict", {}).get("_batches_that_stepped")
    step = _steps(fit, checkpoint, stepped)
    # The batch in which the file was written has stepped, and is not yet among those that Lightning calls completed.
    stepped = step if stepped is None or current["processed"] > current["completed"] else int(stepped)
    epoch, batch, ended = int(epochs["completed"]), int(current["processed"]), False
    if epochs["processed"] > epochs["completed"]:
        epoch, batch = int(epochs["processed"]), 0  # written in `on_train_epoch_end`: the epoch is over
    elif epochs["ready"] <= epochs["completed"]:
        batch = 0  # written between two epochs
    elif batches.get("is_last_batch") and current["completed"] == current["ready"] > 0:
        ended = _has_validated(fit)
    # written in `on_train_batch_end`, or inside the validation after it: what follows the batch is still to come
    pending = batch > 0 and not ended and (current["processed"] > current["completed"] or not _has_validated(fit))
    return _progress(
        epoch=epoch,
        batch=batch,
        step=step,
        batches=int(total["processed"]),
        stepped_batches=stepped,
        validated_batch=int(total["processed"]) if batch == 0 or ended else 0,
        epoch_ended=ended,
        closed=bool(batches.get("is_last_batch")) and batch == current["ready"] > 0,
        pending=pending,
    )


def callback_states_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The states of callbacks by today's keys. Knows the keys of Lightning 0.7 (top level), 1.0 (classes) and 1.5 to 1.8."""
    states: dict[str, Any] = {}
    for old, (callback, name) in _OLD_CALLBACK_KEYS.items():
        if old in checkpoint:
            states.setdefault(callback, {})[name] = checkpoint[old]
    for key, state in (checkpoint.get("callbacks") or {}).items():
        text = key.__qualname__ if isinstance(key, type) else str(key)
        if text.startswith("ModelCheckpoint{"):
            text = re.sub(r", 'save_on_train_epoch_end': (None|True|False)", "", text)
        states[text] = state
    return states


def top_level_callback_keys(checkpoint: Mapping[str, Any]) -> list[str]:
    """The keys under which 0.7 to 0.9 kept callbacks' states beside everything else."""
    return [key for key in _OLD_CALLBACK_KEYS if key in checkpoint]


def lightning_loops(
    progress: Progress, *, optimizers: int = 1, automatic: bool = True, epoch_batches: int | None = None
) -> dict[str, Any]:
    """The entry ``loops`` that lets Lightning 2.x go on with ``fit(ckpt_path=)`` where ``progress`` is.

    Args:
        progress: What :meth:`leyden.state.progress.Progress.state_dict` returns.
        optimizers: How many optimizers make a training step; Lightning counts each.
        automatic: Whether the module leaves the steps to the trainer.
        epoch_batches: Batches of an epoch, where that is known. Tells whether the running epoch's last batch is done.
    """
    epoch, batch, batches = int(progress["epoch"]), int(progress["batch"]), int(progress["batches"])
    steps = int(progress["step"]) * optimizers
    ended = bool(progress.get("epoch_ended", False))
    running = batch > 0 or ended
    last = ended or (epoch_batches is not None and batch >= epoch_batches) or (not running and batches > 0)
    seen = batch if running else (epoch_batches or 0)
    begun = epoch + 1 if running else epoch
    epochs = _counts(begun, processed=epoch + 1 if ended else epoch, completed=epoch)
    taken, manual = (steps, 0) if automatic else (0, steps)
    fit = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": int(progress.get("stepped_batches", progress["step"]))},
        "epoch_loop.batch_progress": {"total": _counts(batches), "current": _counts(seen), "is_last_batch": last},
        "epoch_loop.scheduler_progress": {"total": _pair(0), "current": _pair(0)},
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": {"total": _pair(taken), "current": _pair(0)},
                "zero_grad": {"total": {**_pair(taken), "started": taken}, "current": {**_pair(0), "started": 0}},
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": _pair(manual), "current": _pair(0)},
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": {"total": _counts(0), "current": _counts(0), "is_last_batch": ended},
        "epoch_progress": {"total": dict(epochs), "current": dict(epochs)},
    }
    return {
        "fit_loop": fit,
        "validate_loop": _idle(is_last_batch=False),
        "test_loop": _idle(is_last_batch=False),
        "predict_loop": _idle(),
    }


def _steps(fit: Mapping[str, Any], checkpoint: Mapping[str, Any], stepped: int | None) -> int:
    total = 0
    # named by the loops of 2.x, of 1.6 to 1.9
    for key in ("epoch_loop.automatic_optimization.optim_progress", "epoch_loop.batch_loop.optimizer_loop.optim_progress"):
        if key in fit:
            total += int(fit[key]["optimizer"]["step"]["total"]["completed"])
    for key in ("epoch_loop.manual_optimization.optim_step_progress", "epoch_loop.batch_loop.manual_loop.optim_step_progress"):
        if key in fit:
            total += int(fit[key]["total"]["completed"])
    if not total:
        total = int(checkpoint.get("global_step", 0))
    optimizers = len(checkpoint.get("optimizer_states") or ())
    if optimizers < 2:
        return total
    if stepped is None:
        return total // optimizers if total % optimizers == 0 else total
    expected = (int(stepped), int(stepped) + 1)  # the second: written before the batch was counted
    if total in expected:
        return total  # one optimizer a batch, in turns
    for each in range(2, optimizers + 1):
        if total % each == 0 and total // each in expected:
            return total // each
    return total


def _has_validated(fit: Mapping[str, Any]) -> bool:
    for key in ("epoch_loop.val_loop.batch_progress", "epoch_loop.val_loop.epoch_loop.batch_progress"):
        if key in fit:
            validation = fit[key]
            # what is in the middle of validation has begun batches that it has not completed
            return bool(validation["current"]["ready"] == validation["current"]["completed"])
    return True


def _progress(
    *,
    epoch: int,
    step: int,
    stepped_batches: int,
    batch: int = 0,
    batches: int = 0,
    validated_batch: int = 0,
    epoch_ended: bool = False,
    closed: bool = False,
    pending: bool = False,
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "batch": batch,
        "step": step,
        "batches": batches,
        "window": 0,
        "stepped_batches": stepped_batches,
        "validated_batch": validated_batch,
        "epoch_ended": epoch_ended,
        "closed": closed,
        "settled": -1 if pending else batches,
    }


def _counts(ready: int, processed: int | None = None, completed: int | None = None) -> dict[str, int]:
    return {
        "ready": ready,
        "started": ready,
        "processed": ready if processed is None else processed,
        "completed": ready if completed is None else completed,
    }


def _pair(count: int) -> dict[str, int]:
    return {"ready": count, "completed": count}


def _idle(**more: Any) -> dict[str, Any]:
    return {"state_dict": {}, "batch_progress": {"total": _counts(0), "current": _counts(0), **more}}
