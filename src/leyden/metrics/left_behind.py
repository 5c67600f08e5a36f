"""What processes had counted that are no longer there: others take it over, so that an epoch's values are of all its batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def taken_over(own: Mapping[str, Any], gone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``own``, the parts of a checkpoint that are one process's, with what ``gone`` had counted in the epoch beside it."""
    found = dict(own)
    metrics = [each["metrics"] for each in (own, *gone) if "collections" in (each.get("metrics") or {})]
    if metrics:
        found["metrics"] = {**metrics[0], "collections": _collections([each["collections"] for each in metrics])}
    objects = own.get("metric_objects") or {}
    if objects:
        more = [each.get("metric_objects") or {} for each in gone]
        found["metric_objects"] = {
            name: {**state, "more": [each[name] for each in more if name in each]} for name, state in objects.items()
        }
    if own.get("inside"):  # before the end of an epoch that a limit had cut
        found["inside"] = taken_over(own["inside"], [each["inside"] for each in gone if each.get("inside")])
    return found


def _collections(every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of each stage, each with the totals that others had under its name."""
    whole: dict[str, Any] = {}
    for stage in dict.fromkeys(stage for each in every for stage in each):
        entries: dict[tuple[Any, ...], dict[str, Any]] = {}
        for each in every:
            for entry in each.get(stage, ()):
                key = entry["where"], entry["name"], entry["loader"]
                if key not in entries:
                    entries[key] = {**entry, "more": []}
                elif entry["touched"]:
                    entries[key]["more"].append(entry["total"])
                    entries[key]["touched"] = True
        whole[stage] = list(entries.values())
    return whole
