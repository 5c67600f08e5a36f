"""Logged values: merged over batches, kept on their device, read in bulk at flush points."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from leyden.errors import IllegalLog, LeydenWarning
from leyden.state.accumulators import as_tensor
from leyden.state.batch_size import given_size, read_size
from leyden.state.logged import (
    WHERE_LEGAL,
    AskedLog,
    Collection,
    Entry,
    Key,
    check_kind,
    flattened,
    is_metric,
    same_asked,
)
from leyden.state.metric_objects import SetAside

__all__ = ["WHERE_LEGAL", "AskedLog", "Metrics", "flattened", "read_numbers", "stack_scalars"]


class Place(Protocol):
    """Knows which hook or step runs: :class:`leyden.hooks.Hooks` does."""

    where: str | None


class Nowhere:
    """No verb runs."""

    where: str | None = None


NOWHERE = Nowhere()


class Metrics:
    """Everything logged in a run. The loops say where it is; the module logs; loggers, callbacks and the bar read."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._stage = ""
        self._now: Collection | None = None
        self._entries: dict[Key, Entry] = {}
        self._between = True  # no batch runs: values are the epoch's
        self._opened: str | None = None
        self._evaluated: dict[tuple[str, int | None], int] = {}  # batches of each stage and loader, in epochs before this one
        self._seen: dict[int | None, int] = {}  # batches of each loader in this evaluation
        self._callback: dict[str, Tensor] = {}
        self._logged: dict[str, Any] = {}
        self._bar: dict[str, Any] = {}
        self._place: Place = NOWHERE
        self.batch: Any = None
        self.size: int | None = None
        self._sample_count: Callable[[], int | None] = uncounted
        self._loader: int | None = None
        self._set_aside = SetAside()
        self._module: torch.nn.Module | None = None
        self._said_silent = False
        self.silent = False  # barebones: nothing is logged

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_place": NOWHERE, "_sample_count": uncounted, "batch": None}  # a copy belongs to no verb

    # -- said by the loops
    def begin(self, place: Place, module: torch.nn.Module | None = None) -> None:
        """A verb starts: ``place.where`` tells which hook runs at any moment, ``module`` holds the metrics that may be logged."""
        for collection in self._collections.values():
            collection.reset_metrics()
        self._set_aside.forget()
        self._collections = {}
        self._now = None
        self._entries = {}
        self._between = True
        self._opened = None
        self._evaluated, self._seen = {}, {}
        self._callback, self._logged, self._bar = {}, {}, {}
        self._place = place
        self._module = module
        self.batch = self.size = self._loader = None

    def enter(self, stage: str) -> None:
        """Log into ``stage``'s collection from now on, as it is."""
        if stage != self._stage:
            self._keep()  # training's newest values stay to be seen while validation runs
        self._stage = stage
        self._now = self._collections.setdefault(stage, Collection())
        self._entries = self._now.entries
        self._loader = None
        self._between = False

    def open_epoch(self, stage: str, resuming: bool) -> None:
        """Take values that belong to an epoch of ``stage`` which begins soon (to the running one, where a run is resumed)."""
        if resuming:
            self.enter(stage)
            return
        self.start_epoch(stage)
        self._opened = stage

    def start_epoch(self, stage: str) -> None:
        """Begin a new epoch of ``stage``."""
        self.enter(stage)
        assert self._now is not None
        self._between = True
        if self._opened == stage:
            self._opened = None
            return
        self._now.reset()
        if stage != "train":
            self._seen = {}
            self._set_aside.wait_for(collection for name, collection in self._collections.items() if name != stage)

    def end_epoch(self) -> None:
        """All that reads the running epoch's values has read them: reset the torchmetrics metrics that were logged."""
        self._keep()
        if self._now is not None:
            self._now.reset_metrics()
        self._set_aside.put_back()
        for loader, batches in self._seen.items():
            self._evaluated[self._stage, loader] = self._evaluated.get((self._stage, loader), 0) + batches
        self._seen = {}

    def leave(self, stage: str) -> None:
        """Go back to ``stage``'s collection, as it was."""
        self.end_epoch()
        self.enter(stage)

    def forget(self, stage: str) -> None:
        """Drop what ``stage`` logged, as if it had not run: the sanity check leaves no metric behind."""
        collection = self._collections.pop(stage, None)
        if collection is not None:
            collection.reset()
        self._now, self._entries, self._between = None, {}, True
        self._evaluated, self._seen = {}, {}
        self._callback, self._logged, self._bar = {}, {}, {}

    def start_batches(self, sample_count: Callable[[], int | None]) -> None:
        """Training batches follow: each is set as :attr:`batch`, with :attr:`size` to be read when it is asked for."""
        self._begin_batches()
        self._loader, self._sample_count = None, sample_count

    def _begin_batches(self) -> None:
        self._keep()
        self._between = False

    def at(self, batch: Any, loader: int | None, sample_count: Callable[[], int | None]) -> None:
        """The batch that runs now, the number of its loader where there are several, and who can count its samples."""
        if self._set_aside.waits or loader != self._loader:
            self._change_loader(loader)
        if self._between:
            self._begin_batches()
        self.batch, self.size, self._loader, self._sample_count = batch, None, loader, sample_count

    def end_loader(self, loader: int | None, batches: int) -> None:
        """A loader has been evaluated, all its ``batches``."""
        self._seen[loader] = batches

    @property
    def evaluated(self) -> int:
        """Batches that the running stage has evaluated of the running loader, before this evaluation: the loggers' x goes on."""
        return self._evaluated.get((self._stage, self._loader), 0)

    def _change_loader(self, loader: int | None) -> None:
        """A metric that goes on to be used for another stage or loader starts anew there: its values do not mix."""
        self._set_aside.take()
        if self._loader is not None:
            for key, entry in self._entries.items():
                if key[2] == self._loader and entry.metric is not None and entry.touched:
                    if entry.on_epoch:
                        entry.epoch_value()
                    self._set_aside.change_loader(entry.metric)

    def end_batches(self) -> None:
        """The epoch's batches are over: from now on its values are the epoch's."""
        self._keep()
        self._set_aside.put_back_unused()
        self.batch = None
        self.size = None
        self._between = True
        self._loader = None

    # -- said by the module
    def log(self, name: str, value: Any, asked: AskedLog, batch_size: int | None) -> None:
        """Merge one value into the entry of its name and hook."""
        if self.silent:
            self._say_silent(name)
            return
        where = self._place.where
        try:
            entry = self._entries.get((where, name, self._loader))  # type: ignore[arg-type]  # unknown places: see _new
        except TypeError:  # no string, and not even hashable
            entry = None
        if entry is None:
            entry = self._new(where, name, value, asked)
        elif entry.asked != asked:
            self._again(entry, name, asked)
        if isinstance(value, Tensor):
            if value.dim() and value.numel() != 1:
                raise IllegalLog(
                    f"self.log({name!r}, ...) got a tensor of shape {tuple(value.shape)}. Only single values can be logged: "
                    f"reduce it, for example by .mean()."
                )
            if not entry.graph:
                value = value.detach()
            value = value.clone()  # the caller may go on changing it in place
            if value.dim():
                value = value.reshape(())
        elif type(value) is not float and type(value) is not int:
            value = self._unusual(entry, name, value)
            if value is None:
                return
        if entry.on_epoch:
            if batch_size is not None:
                if type(batch_size) is not int or batch_size < 0:
                    batch_size = given_size(name, batch_size)
            elif entry.reduce == "mean":
                batch_size = self.size
                if batch_size is None:
                    batch_size = self.size = self._count_samples(name)
            else:
                batch_size = 1
            entry.add(value, batch_size)
        else:
            entry.touched = True
            entry.last = value

    def _say_silent(self, name: str) -> None:
        if not self._said_silent:
            self._said_silent = True
            warnings.warn(
                f"self.log({name!r}, ...) logs nothing under Trainer(barebones=True), which turns logging off.",
                LeydenWarning,
                stacklevel=4,
            )

    def _again(self, entry: Entry, name: str, asked: AskedLog) -> None:
        """The name was logged before in this hook, with arguments that are not the same objects."""
        entry.bind(asked)
        if not same_asked(name, entry.asked, asked):
            raise IllegalLog(
                f"self.log({name!r}, ...) was called in {entry.where} with other arguments than before. Log it the same way "
                f"every time, or under another name."
            )
        entry.asked = asked

    def _new(self, where: str | None, name: str, value: Any, asked: AskedLog) -> Entry:
        if not isinstance(name, str):
            raise IllegalLog(f"self.log({name!r}, ...): a metric's name must be a string, and this is {type(name).__name__}.")
        if where not in WHERE_LEGAL or self._now is None:
            place = f"in {where}" if where else "outside of the trainer's hooks"
            raise IllegalLog(
                f"self.log({name!r}, ...) was called {place}, where nothing can be logged. It is legal in: "
                f"{', '.join(WHERE_LEGAL)}."
            )
        if "/dataloader_idx_" in name:
            raise IllegalLog(
                f"self.log({name!r}, ...): the part '/dataloader_idx_' is added by the trainer. Leave it out of the name; "
                f"add_dataloader_idx=False keeps the trainer from adding it."
            )
        suffix = ""
        if self._loader is not None:
            if asked[5]:
                suffix = f"/dataloader_idx_{self._loader}"
            elif any(key[1] == name and key[2] != self._loader and key[0] == where for key in self._entries):
                raise IllegalLog(
                    f"self.log({name!r}, add_dataloader_idx=False) was called for two loaders: one would hide the other. "
                    f"Give each its own name, or leave add_dataloader_idx out."
                )
        check_kind(name, value)
        entry = Entry(where, name, asked, suffix)
        key = (where, name, self._loader)
        self._entries[key] = entry
        return entry

    def _unusual(self, entry: Entry, name: str, value: Any) -> Any:
        """A value that is neither tensor nor plain number: a metric keeps itself, other numbers become plain ones."""
        if is_metric(value):
            if entry.metric is not None and entry.metric is not value:
                raise IllegalLog(f"self.log({name!r}, ...) was given another metric object than before. Give each its own name.")
            entry.touch_metric(value)
            return None
        check_kind(name, value)
        if hasattr(value, "item"):
            value = value.item()  # numpy's numbers live on the CPU: nothing waits
        return int(value) if isinstance(value, int) else float(value)

    def _count_samples(self, name: str) -> int:
        return 1 if self.batch is None else read_size(name, self.batch, self._sample_count)

    # -- read by callbacks, loggers, the bar
    def _keep(self) -> None:
        """Take the newest values of the running collection over into the three views."""
        now = self._now
        if now is None:
            return
        if self._between:
            for _, entry, value in now.epoch_values():
                self._take(entry, entry.epoch_name, value, callback=True)
        else:
            training = now is self._collections.get("train")
            for entry, value in now.step_values(self._loader):
                self._take(entry, entry.step_name, value, callback=training)

    def _take(self, entry: Entry, name: str, value: Any, callback: bool) -> None:
        if callback:
            tensor = as_tensor(value)
            self._callback[entry.name] = tensor
            self._callback[name] = tensor
        if entry.logger:
            self._logged[name] = value
        if entry.bar:
            self._bar[name] = value

    def callback(self) -> dict[str, Tensor]:
        """The newest value under each name."""
        self._keep()
        return self._callback

    def logged(self) -> dict[str, Tensor]:
        """The newest values that are meant for loggers, whether there are any or not."""
        self._keep()
        return {name: as_tensor(value) for name, value in self._logged.items()}

    def bar(self, loss: Tensor | None = None) -> dict[str, float]:
        """What the bar shows, as numbers, the training loss among them: reads the device."""
        self._keep()
        shown = dict(self._bar)
        if loss is not None:
            shown.setdefault("loss", loss)
        return read_numbers(shown)

    def bar_keys(self) -> list[str]:
        """The names that the bar shows, without reading a value."""
        return list(self._bar)

    def publish(self, values: Mapping[str, Any], *, callback: bool = True, bar: bool = False, logged: bool = False) -> None:
        """Values that another part brings by itself (the learning-rate monitor, 2020's dicts)."""
        for name, value in values.items():
            if callback:
                self._callback[name] = as_tensor(value)
            if bar:
                self._bar[name] = value
            if logged:
                self._logged[name] = value

    def step_row(self) -> dict[str, Any]:
        """What the loggers get of this batch."""
        if self._now is None:
            return {}
        row = {entry.step_name: value for entry, value in self._now.step_values(self._loader) if entry.logger}
        self._logged.update(row)
        return row

    def epoch_row(self) -> dict[str, Any]:
        """What the loggers get of this epoch."""
        if self._now is None:
            return {}
        row = {entry.epoch_name: value for _, entry, value in self._now.epoch_values() if entry.logger}
        self._logged.update(row)
        return row

    def epoch_results(self, loader: int | None) -> dict[str, Any]:
        """The epoch's values of one loader (of all hooks that belong to none, where ``loader`` is ``None``)."""
        if self._now is None:
            return {}
        return {entry.epoch_name: value for index, entry, value in self._now.epoch_values() if index == loader}

    def names(self) -> list[tuple[str, str]]:
        """Hook and name of everything logged in the running epoch."""
        return [(key[0], key[1]) for key, entry in self._entries.items() if entry.touched]

    def has_step_values(self) -> bool:
        return any(entry.on_step and entry.touched and entry.logger for entry in self._entries.values())

    # -- kept across a resume
    def set_aside(self, metric: Any) -> dict[str, Any] | None:
        """The state of a torchmetrics metric while another stage or loader uses it, ``None`` where it has it itself."""
        return self._set_aside.state_of(metric)

    def state_dict(self) -> dict[str, Any]:
        """Half-filled accumulators of every stage, and the newest values."""
        names = {} if self._module is None else {id(child): name for name, child in self._module.named_modules()}
        return {
            "collections": {
                stage: [
                    {**entry.state_dict(), "loader": key[2], "metric": names.get(id(entry.metric))}
                    for key, entry in collection.entries.items()
                ]
                for stage, collection in self._collections.items()
            },
            "evaluated": [[*key, batches] for key, batches in self._evaluated.items()],
            "callback": dict(self._callback),
            "logged": dict(self._logged),
            "bar": dict(self._bar),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave. Functions given as ``reduce_fx`` are bound again when they first log."""
        children = {} if self._module is None else dict(self._module.named_modules())
        for stage, entries in state["collections"].items():
            collection = self._collections.setdefault(stage, Collection())
            for kept in entries:
                key = (kept["where"], kept["name"], kept["loader"])
                entry = Entry(kept["where"], kept["name"], cast(AskedLog, tuple(kept["asked"])), kept["suffix"])
                entry.load_state_dict(kept)
                entry.metric = children.get(kept["metric"])
                collection.entries[key] = entry
        self._evaluated = {(stage, loader): batches for stage, loader, batches in state["evaluated"]}
        self._callback = dict(state["callback"])
        self._logged = dict(state["logged"])
        self._bar = dict(state["bar"])


def uncounted() -> None:
    """How many samples a batch has where no loader can tell."""


def read_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Tensors as Python numbers, read in bulk: one transfer for each type and device."""
    numbers: dict[str, Any] = {}
    groups: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name, value in values.items():
        numbers[name] = value
        if isinstance(value, Tensor):
            groups.setdefault((value.dtype, value.device), []).append(name)
    for names in groups.values():
        for name, number in zip(names, stack_scalars(values[name] for name in names).tolist(), strict=True):
            numbers[name] = number
    return numbers


def stack_scalars(values: Iterable[Tensor]) -> Tensor:
    listed = [value if not value.dim() else value.reshape(()) for value in values]
    return torch.stack(listed).detach()
