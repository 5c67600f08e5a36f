"""What was logged in one epoch of one stage, and the points at which it becomes the values of all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from leyden.distributed.processes import Processes
from leyden.errors import IllegalLog, LeydenWarning, warn_user
from leyden.metrics.exchange import Key, agree_on_names, in_order, values_of_all
from leyden.metrics.logged import AskedLog, Entry, check_kind, check_switches, is_of_a_batch
from leyden.metrics.metric_objects import reset, used
from leyden.metrics.rows import Rows


class Collection:
    """What was logged in one epoch of one stage."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.ran: set[int | None] = set()  # loaders (None: the only one) of which a batch ran here
        self.metrics_are_reset = False  # the epoch's metric objects were: another stage may use them by now

    def reset(self) -> None:
        """Begin anew. torchmetrics metrics that were logged are reset too."""
        self.reset_metrics()
        self.metrics_are_reset = False
        self.ran.clear()
        for entry in self.entries.values():
            entry.reset()

    def reset_metrics(self) -> None:
        """Reset the torchmetrics metrics that were logged, once an epoch. What they came to stays known."""
        if self.metrics_are_reset:
            return
        self.metrics_are_reset = True
        for entry in self.entries.values():
            if entry.metric is not None and entry.touched and used(entry.metric):
                reset(entry.metric)

    def metrics(self) -> Iterator[Any]:
        """The torchmetrics metrics that were logged in an epoch that runs."""
        if self.metrics_are_reset:
            return
        for entry in self.entries.values():
            if entry.metric is not None and entry.touched:
                yield entry.metric

    def new_entry(self, key: Key, value: Any, asked: AskedLog) -> Entry:
        """The entry of a name that is logged for the first time. Raises :class:`IllegalLog` where that cannot be."""
        where, name, loader = key
        suffix = ""
        check_switches(name, asked)
        if loader is not None:
            if asked[5]:
                suffix = f"/dataloader_idx_{loader}"
            elif any(other[1] == name and other[2] != loader and other[0] == where for other in self.entries):
                raise IllegalLog(
                    f"self.log({name!r}, add_dataloader_idx=False) was called for two loaders: one would hide the other. "
                    f"Give each its own name, or leave add_dataloader_idx out."
                )
        check_kind(name, value)
        entry = self.entries[key] = Entry(where, name, asked, suffix)
        return entry

    # -- all processes' values
    def close(self, processes: Processes, when: str) -> None:
        """The epoch is over, or what was logged since: read what its values come to on all processes, and wait for the device.

        All processes call it at the same points; ``when`` says at which, in words. A torchmetrics metric merges its own
        state over processes, in its ``compute()``, which is called in the same order everywhere.

        Raises:
            MetricsDiffer: on every process, where one of them lacks a name and had batches in which to log it.
        """
        due = {key: entry for key, entry in self.entries.items() if entry.on_epoch and entry.is_open}
        if processes.alone:
            self._close_here(due.values())
            self._reduce(due, processes.leyden_reduce)
            return
        self._close_here(entry for entry in due.values() if entry.own)
        shared = {key: entry for key, entry in due.items() if not entry.own}
        kinds = {key: entry.kind for key, entry in shared.items()}
        for key, (asked, suffix) in agree_on_names(processes, when, kinds, self._had_no_batch, self._description).items():
            self.entries[key] = shared[key] = Entry(key[0], key[1], asked, suffix)
        in_turn = [shared[key] for key in in_order(shared)]
        merged = [entry for entry in in_turn if entry.metric is None]
        for entry in merged:
            entry.merge()
        for entry, value in zip(merged, values_of_all(processes, [entry.total for entry in merged]), strict=True):
            entry.computed = value
            if value is None and entry.touched and entry.kind == "function":
                warn_user(
                    f"{entry.name!r} has no value for the epoch in which the run went on: its reduce_fx is a function, which a "
                    f"checkpoint does not hold, and it was not logged again.",
                    LeydenWarning,
                )
        self._close_here(entry for entry in in_turn if entry.metric is not None)
        self._reduce(shared, processes.leyden_reduce)

    @staticmethod
    def _reduce(due: Mapping[Key, Entry], reduce: Callable[..., Any] | None) -> None:
        """Have a ``reduce`` of the user's make one value of those of all processes, where ``sync_dist=True`` asks for it."""
        for key in in_order(due) if reduce is not None else ():
            if due[key].syncs:
                due[key].reduce_by(reduce)

    @staticmethod
    def _close_here(entries: Any) -> None:
        for entry in entries:
            if entry.touched:
                entry.close()

    def _had_no_batch(self, key: Key, kind: str) -> bool:
        """Whether the name is lacking here because no batch ran in which it would have been logged."""
        hook, _, loader = key
        logged = any(other[2] == loader and is_of_a_batch(other[0]) for other in self.entries)
        return kind != "metric" and is_of_a_batch(hook) and loader not in self.ran and not logged

    def _description(self, key: Key) -> Any:
        entry = self.entries[key]
        reduce = entry.asked[4] if isinstance(entry.reduce, str) else None  # a function need not be picklable
        return (*entry.asked[:4], reduce, *entry.asked[5:]), entry.suffix

    def share_steps(self, processes: Processes, loader: int | None, when: str, rows: Rows | None) -> None:
        """Make the newest values of names with ``sync_dist=True`` those of all processes: a mean weighs each by its samples.

        Without such names nothing is exchanged, so all processes need to have the same: ``rows`` of training ask whether they do.
        """
        shared = {
            key: entry
            for key, entry in self.entries.items()
            if entry.syncs and entry.on_step and entry.logger and key[2] == loader and entry.metric is None
        }
        first = rows is not None and rows.differ([name for _, name, _ in shared])
        if not shared and not first:
            return
        kinds = {key: entry.kind for key, entry in shared.items()}
        agree_on_names(processes, when, kinds, lambda key, kind: False, self._description)
        if not shared:
            return
        in_turn = [shared[key] for key in in_order(shared)]
        totals = []
        for entry in in_turn:
            totals.append(entry.new_total())
            if entry.touched and entry.last is not None:
                totals[-1].add([(entry.last, entry.weight)])
        for entry, value in zip(in_turn, values_of_all(processes, totals), strict=True):
            entry.agreed = (entry.last, value)

    # -- reading: nothing is computed
    def step_values(self, loader: int | None) -> Iterator[tuple[Entry, Any]]:
        for (_, _, index), entry in self.entries.items():
            if entry.on_step and index == loader and (entry.touched or entry.agreed is not None):
                value = entry.step_value()
                if value is not None:
                    yield entry, value

    def epoch_values(self) -> Iterator[tuple[int | None, Entry, Any]]:
        for (_, _, index), entry in self.entries.items():
            if entry.on_epoch and (entry.touched or not entry.is_open):
                value = entry.epoch_value()
                if value is not None:
                    yield index, entry, value
