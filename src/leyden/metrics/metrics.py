"""Logged values: merged over batches, kept on their device, read in bulk at flush points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from leyden.distributed.processes import Alone, Processes
from leyden.errors import AmbiguousBatchSize, IllegalLog, LeydenWarning, warn_user
from leyden.metrics.accumulators import as_tensor
from leyden.metrics.batch_size import SampleCount, given_size, read_size
from leyden.metrics.collection import Collection
from leyden.metrics.decisions import Decisions
from leyden.metrics.exchange import Key
from leyden.metrics.logged import AskedLog, Entry, check_kind, check_place, flattened, is_metric
from leyden.metrics.metric_objects import SetAside, children_of, is_part, put_state, state_of
from leyden.metrics.newest import Newest, read_numbers
from leyden.metrics.rows import Rows

__all__ = ["AskedLog", "Metrics", "flattened", "read_numbers"]


class Place(Protocol):
    """Knows which hook or step runs: :class:`leyden.hooks.Hooks` does."""

    where: str | None


class Nowhere:
    """No verb runs."""

    where: str | None = None


NOWHERE = Nowhere()
ALONE = Alone()


class Metrics:
    """Everything logged in a run. The loops say where it is; the module logs; loggers, callbacks and the bar read.

    Epoch values are those of all processes. They are computed where a loop says that something is over
    (:meth:`end_batches`, :meth:`close`, and :meth:`step_row` for names with ``sync_dist=True``), and nowhere else: reading
    takes what is there, and until then the newest value of this process.
    """

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._stage = ""
        self._now: Collection | None = None
        self._entries: dict[Key, Entry] = {}
        self._between = True  # no batch runs: values are the epoch's
        self._opened: str | None = None
        self._evaluated: dict[tuple[str, int | None], int] = {}  # batches of each stage and loader, in epochs before this one
        self._seen: dict[int | None, int] = {}  # batches of each loader in this evaluation
        self._newest = Newest()
        self.returned: Mapping[str, set[str]] = {}  # stage: names that are logged because a step returned them
        self._logs_itself = False
        self._offered: set[str] = set()  # what callbacks see as long as the module logs nothing itself
        self._processes: Processes = ALONE
        self._place: Place = NOWHERE
        self.batch: Any = None
        self.size: int | None = None
        self._sample_count: Callable[[], SampleCount | None] = uncounted
        self._of_training: Callable[[], SampleCount | None] = uncounted  # kept while a validation has its own
        self._loader: int | None = None
        self._set_aside = SetAside()
        self._module: torch.nn.Module | None = None
        self._cut: dict[str, Any] | None = None  # where in which stage a checkpoint was taken, until the stage goes on
        self._rows, self._decisions = Rows(ALONE), Decisions(ALONE)
        self._said_silent = False
        self.silent = False  # barebones: nothing is logged
        self.has_loggers = True  # said when a verb begins; a smoke run's count as there
        self._said_unlogged = False
        self.read: Callable[[Mapping[str, Any]], dict[str, Any]] = read_numbers
        """How the bar's values become numbers."""

    def __getstate__(self) -> dict[str, Any]:
        at_rest = {"_place": NOWHERE, "_sample_count": uncounted, "_of_training": uncounted, "batch": None}
        at_rest |= {"_processes": ALONE, "_rows": Rows(ALONE), "_decisions": Decisions(ALONE), "read": read_numbers}
        return {**self.__dict__, **at_rest}  # a copy belongs to no verb

    # -- said by the loops
    def begin(self, place: Place, module: torch.nn.Module | None = None, processes: Processes = ALONE) -> None:
        """A verb starts: ``place.where`` tells which hook runs at any moment, ``module`` holds the metrics that may be logged,
        ``processes`` are those whose values become one."""
        for collection in self._collections.values():
            collection.reset_metrics()
        self._set_aside.forget()
        self._collections = {}
        self._now = None
        self._entries = {}
        self._between = True
        self._opened = None
        self._evaluated, self._seen = {}, {}
        self._newest = Newest()
        self._logs_itself, self._offered = False, set()
        self._cut = None
        self._processes, self._rows, self._decisions = processes, Rows(processes), Decisions(processes)
        self._place = place
        self._module = module
        self.batch = self.size = self._loader = None

    @contextmanager
    def reading(self, read: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Iterator[None]:
        """Within, the bar's values become numbers by ``read``."""
        before, self.read = self.read, read
        try:
            yield
        finally:
            self.read = before

    @contextmanager
    def measured(self, around: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        """Within, each :meth:`log` is what ``around`` makes of it."""
        log = around("log", self.log)
        if log == self.log or "log" in vars(self):  # nothing is measured, or it is already: a verb inside a verb
            yield
            return
        vars(self)["log"] = log
        try:
            yield
        finally:
            del vars(self)["log"]

    def enter(self, stage: str) -> None:
        """Log into ``stage``'s collection from now on, as it is."""
        if stage != self._stage:
            self._keep()  # training's newest values stay to be seen while validation runs
            self._note_batch()
        self._stage = stage
        self._now = self._collections.setdefault(stage, Collection())
        self._entries = self._now.entries
        self._loader = None
        self._between = False

    def open_epoch(self, stage: str, resuming: bool) -> None:
        """Take values that belong to an epoch of ``stage`` which begins soon (to the running one, where a run is resumed)."""
        if resuming:
            self.enter(stage)
            # a run that was cut behind an epoch's batches has its epoch's values to show, not its last step's
            self._between = self._cut is not None and self._cut["stage"] == stage and bool(self._cut["between"])
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
        self._sample_count = self._of_training

    def forget(self, stage: str) -> None:
        """Drop what ``stage`` logged, as if it had not run: the sanity check leaves no metric behind."""
        self.logs_itself()
        collection = self._collections.pop(stage, None)
        if collection is not None:
            collection.reset()
        self._now, self._entries, self._between = None, {}, True
        self._evaluated, self._seen = {}, {}
        self._newest = Newest()

    def forget_hook(self, hook: str) -> None:
        """Drop what was logged in ``hook`` in the running epoch: it is called again, because a checkpoint was taken inside it."""
        for key, entry in self._entries.items():
            if key[0] == hook:
                entry.reset()

    def start_batches(self, sample_count: Callable[[], SampleCount | None]) -> None:
        """Training batches follow: each is set as :attr:`batch`, with :attr:`size` to be read when it is asked for."""
        self._begin_batches()
        self._loader, self._sample_count, self._of_training = None, sample_count, sample_count

    def _begin_batches(self) -> None:
        self._keep()
        self._between = False

    def at(self, batch: Any, loader: int | None, sample_count: Callable[[], SampleCount | None]) -> None:
        """The batch that runs now, the number of its loader where there are several, and who can count its samples."""
        if self._between or loader != self._loader or self._set_aside.waits:
            self._first_batch(loader)
        self.batch, self.size, self._loader, self._sample_count = batch, None, loader, sample_count

    def _first_batch(self, loader: int | None) -> None:
        if self._set_aside.waits or loader != self._loader:
            self._change_loader(loader)
        if self._between:
            self._begin_batches()
        if self._now is not None:
            self._now.ran.add(loader)

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
                        entry.close()
                    self._set_aside.change_loader(entry.metric)

    def end_batches(self) -> None:
        """The epoch's batches are over: its values are read, and those of all processes become one. All of them call it.

        Raises:
            MetricsDiffer: on every process, where they logged different names.
        """
        self._keep()
        self._set_aside.put_back_unused()
        self._note_batch()
        self.batch = None
        self.size = None
        self._between = True
        self._loader = None
        self._close("batches")

    def _note_batch(self) -> None:
        if self._now is not None and self.batch is not None:
            self._now.ran.add(self._loader)

    def close(self) -> None:
        """The hooks at an epoch's end are over: what they logged is read, as by :meth:`end_batches`, and on all processes."""
        self._close("hooks")
        self._keep()

    def _close(self, what: str) -> None:
        if self._now is not None:
            self._now.close(self._processes, f"after the {what} of an epoch of {self._stage}")

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
            entry.ask_again(name, asked)
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
            if entry.syncs and entry.reduce == "mean" and not self._processes.alone:
                entry.weight = self._size_of_step(name, batch_size)

    def _size_of_step(self, name: str, given: Any) -> int:
        """How many samples a step's value stands for; 1 where the batch does not tell it."""
        if given is not None:
            return given_size(name, given)
        try:
            return self._count_samples(name)
        except AmbiguousBatchSize:
            return 1

    def _say_silent(self, name: str) -> None:
        if not self._said_silent:
            self._said_silent = True
            warn_user(
                f"self.log({name!r}, ...) logs nothing under Trainer(barebones=True), which turns logging off.",
                LeydenWarning,
            )

    def _new(self, where: str | None, name: str, value: Any, asked: AskedLog) -> Entry:
        check_place(name, where, self._now is not None)
        if asked[1] is True and not self.has_loggers and not self._said_unlogged:
            self._said_unlogged = True
            warn_user(
                f"self.log({name!r}, ..., logger=True) asks for a logger, and the Trainer has none: the value goes to "
                f"callbacks and the progress bar alone. Pass Trainer(logger=...), or leave logger=True out.",
                LeydenWarning,
            )
        assert self._now is not None
        assert where is not None
        return self._now.new_entry((where, name, self._loader), value, asked)

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
                self._newest.take(entry, entry.epoch_name, value, callback=True, own=entry.own or entry.is_open)
        else:
            training = now is self._collections.get("train")
            for entry, value in now.step_values(self._loader):
                self._newest.take(entry, entry.step_name, value, callback=training, own=True)

    def callback(self) -> dict[str, Tensor]:
        """The newest value under each name."""
        self._keep()
        if self._offered and self.logs_itself():
            for name in self._offered - {entry.name for each in self._collections.values() for entry in each.entries.values()}:
                self._newest.callback.pop(name, None)
            self._offered = set()
        return self._newest.callback

    def of_all(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Those of ``names`` whose newest value is each process's own, with one value for all: the mean, or the first process's
        where ``rank_zero_only=True`` was said. So that all decide alike by them. All processes call it, with the same names."""
        self.callback()
        return self._newest.of_all(names, self._processes, self._decisions)

    def deciding(self, name: str) -> Tensor | None:
        """The newest value of ``name`` by which all processes decide alike, as :meth:`of_all`; ``None`` where there is none."""
        return self.of_all([name]).get(name, self._newest.callback.get(name))

    def logged(self) -> dict[str, Tensor]:
        """The newest values that are meant for loggers, whether there are any or not."""
        self._keep()
        return {name: as_tensor(value) for name, value in self._newest.logged.items()}

    def bar(self, loss: Tensor | None = None) -> dict[str, float]:
        """What was logged for the bar, as numbers, and the loss of a module that logs nothing itself: reads the device."""
        self._keep()
        shown = dict(self._newest.bar)
        if loss is not None and not self.logs_itself():
            shown.setdefault("loss", loss)
        return self.read(shown)

    def publish(self, values: Mapping[str, Any], *, callback: bool = True, bar: bool = False, logged: bool = False) -> None:
        """Values that another part brings by itself (the learning-rate monitor, 2020's dicts)."""
        self._newest.publish(values, callback=callback, bar=bar, logged=logged)

    def offer(self, values: Mapping[str, Any]) -> None:
        """Values that a step returned and nobody logged. The loss among them is for modules that log nothing, as in 2020."""
        if self.silent:
            return
        self._newest.publish(values, callback=True, bar=False, logged=False)
        self._offered.update({"loss"} & values.keys())

    def logs_itself(self) -> bool:
        """Whether the module has called ``log``, other than by returning a dict."""
        if not self._logs_itself:
            names = ((stage, name) for stage, each in self._collections.items() for _, name, _ in each.entries)
            self._logs_itself = any(name not in self.returned.get(stage, ()) for stage, name in names)
        return self._logs_itself

    def step_row(self) -> dict[str, Any]:
        """What the loggers get of this batch: this process's values, and those of all for names with ``sync_dist=True``.

        All processes call it at the same batches. Without such names nothing is exchanged.
        """
        if self._now is None:
            return {}
        if not self._processes.alone:
            rows = self._rows if self._stage == "train" else None  # evaluations end in an exchange of names
            self._now.share_steps(self._processes, self._loader, f"at a row of {self._stage}", rows)
        row = {entry.step_name: value for entry, value in self._now.step_values(self._loader) if entry.logger}
        self._newest.logged.update(row)
        return row

    def epoch_row(self) -> dict[str, Any]:
        """What the loggers get of this epoch."""
        if self._now is None:
            return {}
        row = {entry.epoch_name: value for _, entry, value in self._now.epoch_values() if entry.logger}
        self._newest.logged.update(row)
        return row

    def epoch_results(self, loader: int | None) -> dict[str, Any]:
        """The epoch's values of one loader (of all hooks that belong to none, where ``loader`` is ``None``)."""
        if self._now is None:
            return {}
        return {entry.epoch_name: value for index, entry, value in self._now.epoch_values() if index == loader}

    def names(self) -> list[tuple[str, str]]:
        """Hook and name of everything logged in the running epoch."""
        return [(key[0], key[1]) for key, entry in self._entries.items() if entry.touched]

    # -- kept across a resume
    def set_aside(self, metric: Any) -> dict[str, Any] | None:
        """The state of a torchmetrics metric while another stage or loader uses it, ``None`` where it has it itself."""
        return self._set_aside.state_of(metric)

    def state_dict(self) -> dict[str, Any]:
        """Half-filled accumulators of every stage, the newest values, and where the running stage is, for :meth:`reenter`."""
        children = self._children()
        names = {id(child): name for name, child in children.items()}
        return {
            "collections": {
                stage: [
                    {**entry.state_dict(), "loader": key[2], "metric": names.get(id(entry.metric))}
                    for key, entry in collection.entries.items()
                ]
                for stage, collection in self._collections.items()
            },
            "evaluated": [[*key, batches] for key, batches in self._evaluated.items()],
            "logs_itself": self.logs_itself(),
            "offered": sorted(self._offered),
            "running": self._running(children, names),
            **self._newest.state_dict(),
        }

    def _running(self, children: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any] | None:
        if self._now is None:
            return None
        # training's own metric objects are a part of the checkpoint already
        theirs = {name: child for name, child in children.items() if self._stage != "train" and is_part(child)}
        return {
            "stage": self._stage,
            "loader": self._loader,
            "between": self._between,
            "opened": self._opened,
            "seen": [[loader, batches] for loader, batches in self._seen.items()],
            "ran": list(self._now.ran),
            "reset": [stage for stage, collection in self._collections.items() if collection.metrics_are_reset],
            "aside": self._set_aside.state_dict(names),
            "objects": {name: state_of(child) for name, child in theirs.items()},
        }

    def reenter(self, stage: str) -> bool:
        """Go on in the epoch of ``stage`` in which a checkpoint was taken, instead of :meth:`start_epoch`.

        The next call of :meth:`at` brings the batch that had not run then, or of :meth:`end_batches` says that there is
        none. Returns whether it was taken in one; where not, nothing is done.
        """
        cut, self._cut = self._cut, None
        if cut is None or cut["stage"] != stage:
            return False
        self.enter(stage)
        assert self._now is not None
        self._newest.load_state_dict(cut)  # entering took over what the stage before had last
        self._loader, self._between, self._opened = cut["loader"], cut["between"], cut["opened"]
        self._seen = dict(cut["seen"])
        self._now.ran = set(cut["ran"])
        children = self._children()
        self._set_aside.load_state_dict(cut["aside"], children)
        for name, state in cut["objects"].items():
            if name in children:
                put_state(children[name], state)
        return True

    def _children(self) -> dict[str, Any]:
        return {} if self._module is None else children_of(self._module)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave. Functions given as ``reduce_fx`` are bound again when they first log.

        The running stage is entered by :meth:`enter`, :meth:`start_epoch` or :meth:`reenter`.
        """
        children = self._children()
        for stage, entries in state["collections"].items():
            collection = self._collections.setdefault(stage, Collection())
            for kept in entries:
                key = (kept["where"], kept["name"], kept["loader"])
                entry = Entry(kept["where"], kept["name"], cast(AskedLog, tuple(kept["asked"])), kept["suffix"])
                entry.load_state_dict(kept)
                entry.metric = children.get(kept["metric"])
                collection.entries[key] = entry
        self._evaluated = {(stage, loader): batches for stage, loader, batches in state["evaluated"]}
        self._newest.load_state_dict(state)
        self._logs_itself, self._offered = state.get("logs_itself", False), set(state.get("offered", ()))
        running = state.get("running")  # 0.1.0 wrote none
        for stage in (running or {}).get("reset", []):  # else its next epoch would reset what another uses by now
            self._collections[stage].metrics_are_reset = True
        self._cut = None if running is None else {**running, **self._newest.state_dict()}


def uncounted() -> None:
    """How many samples a batch has where no loader can tell."""


# A graph of torch.compile that meets it is left and entered again: the counts in here would have it compiled anew at each step.
Metrics.log._torchdynamo_disable = True  # type: ignore[attr-defined]  # Dynamo's own mark, which torch.compiler.disable sets too
