"""Checkpoints of earlier formats, in today's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leyden.state.progress import Done

_OWN_PARTS = ("random", "data", "generators", "metrics", "metric_objects", "gradients", "losses")
_CHECKPOINT_PHASE = {"on_train_batch_end": Done.ROW, "on_validation_end": Done.VALIDATED, "on_train_epoch_end": Done.EPOCH_ROW}


def upgraded(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Parts as leyden 0.1.0 wrote them, side by side and without a format number, in today's layout.

    What followed a batch was told by eight fields then: ``rows``, ``validated``, ``settled``, ``epoch_ended``, ``late`` ...
    A validation that was cut is run again as a whole there, and the rows that it had written are skipped.
    """
    own = {name: part for name, part in parts.items() if name in _OWN_PARTS}
    same = {name: part for name, part in parts.items() if name not in _OWN_PARTS}
    gradients = own.get("gradients")
    old = dict(parts["progress"])
    if gradients is not None:
        own["gradients"] = {"contributed": old.get("contributed", 0), "gradients": gradients} if gradients else {}
    if old.get("validation_rows"):
        own["evaluation"] = {"rows_to_skip": old["validation_rows"]}
    return {**same, "progress": _upgraded_progress(old), "processes": [own]}


def _upgraded_progress(old: Mapping[str, Any]) -> dict[str, Any]:
    new = {
        name: old[name] for name in ("epoch", "batch", "step", "batches", "window", "stepped_batches", "closed") if name in old
    }
    batches, batch = old.get("batches", 0), old.get("batch", 0)
    late, ended, closed = old.get("late", ""), old.get("epoch_ended", False), old.get("closed", False)
    if late:
        return {**new, "done": int(_CHECKPOINT_PHASE[late]), "told": old.get("told", 0)}
    if ended and closed:
        return {**new, "epoch": old["epoch"] + 1, "batch": 0, "window": 0, "closed": False, "done": int(Done.CHECKED)}
    if ended:
        done = Done.EPOCH_TOLD
    elif batch == 0:
        done = Done.CHECKED
    elif old.get("settled", batches) == batches:
        done = Done.PLATEAUS
    elif old.get("validated", old.get("validated_batch", 0)) == batches:
        done = Done.VALIDATION_TOLD
    else:
        done = Done.TOLD if old.get("rows", batches) == batches else Done.BATCH_TOLD
    return {**new, "done": int(done)}
