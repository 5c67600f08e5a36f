"""Logged values: merged over batches, kept on their device, read in bulk at flush points."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from leyden.errors import AmbiguousBatchSize, IllegalLog
from leyden.tree import tree_leaves

Reduction = str | Callable[[Tensor], Tensor]
AskedLog = tuple[bool, bool | None, bool | None, bool | None, Reduction, bool, bool, bool]
"""prog_bar, logger, on_step, on_epoch, reduce_fx, add_dataloader_idx, enable_graph, sync_dist."""

_STEP, _EPOCH = "step", "epoch"
_BOTH = (_STEP, _EPOCH)
_TRAIN_STEP_HOOKS = (
    "training_step",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "clip_gradients",
)
WHERE_LEGAL: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(_TRAIN_STEP_HOOKS, (_BOTH, _STEP)),
    **{f"on_{stage}_batch_{when}": (_BOTH, _EPOCH) for stage in ("validation", "test") for when in ("start", "end")},
    "validation_step": (_BOTH, _EPOCH),
    "test_step": (_BOTH, _EPOCH),
    **dict.fromkeys(
        (
            "on_train_start",
            "on_train_epoch_start",
            "on_train_epoch_end",
            "on_validation_start",
            "on_validation_epoch_start",
            "on_validation_epoch_end",
            "on_test_start",
            "on_test_epoch_start",
            "on_test_epoch_end",
        ),
        ((_EPOCH,), _EPOCH),
    ),
}
"""Where ``self.log`` is legal: the hook's name to (what may be asked for, what is the default)."""

REDUCTIONS = ("mean", "sum", "min", "max", "last")
_PENDING = 64  # values that wait before they are merged: one stacked operation instead of one per batch


def _is_metric(value: object) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def _is_collection(value: object) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.MetricCollection)


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of a nested mapping, names joined by ``/``."""
    # a collection's groups share their states; copying them here would break the sharing
    collection: Any = values
    items = collection.items(copy_state=False) if _is_collection(values) else values.items()
    for name, value in items:
        if not isinstance(name, str):
            raise IllegalLog(f"A metric's name must be a string, and {name!r} is {type(name).__name__}.")
        if isinstance(value, Mapping) or _is_collection(value):
            yield from flattened(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


class Entry:
    """One logged name of one hook: its newest value, and the epoch's so far."""

    __slots__ = (
        "asked",
        "bar",
        "count",
        "epoch_name",
        "graph",
        "last",
        "logger",
        "metric",
        "name",
        "on_epoch",
        "on_step",
        "pending",
        "reduce",
        "step_name",
        "suffix",
        "total",
        "touched",
        "where",
    )

    def __init__(self, where: str, name: str, asked: AskedLog, suffix: str) -> None:
        bar, logger, on_step, on_epoch, reduce, _, graph, _ = asked
        self.where, self.asked, self.bar, self.graph, self.suffix = where, asked, bar, graph, suffix
        self.logger = True if logger is None else logger
        self.reduce = _read_reduction(name, reduce)
        self.on_step, self.on_epoch = _read_places(where, name, on_step, on_epoch)
        both = self.on_step and self.on_epoch
        self.name = name + suffix
        self.step_name = f"{name}_step{suffix}" if both else self.name
        self.epoch_name = f"{name}_epoch{suffix}" if both else self.name
        self.metric: Any = None  # a torchmetrics metric, which merges by itself
        self.reset()

    def reset(self) -> None:
        """Begin a new epoch."""
        self.last: Any = None
        self.touched = False
        self.total: Any = None
        self.count = 0
        self.pending: list[tuple[Any, int]] = []

    # -- during a batch
    def add(self, value: Any, size: int) -> None:
        """Merge one value. ``size`` is the number of samples that it stands for."""
        self.touched = True
        self.last = value
        if self.on_epoch:
            pending = self.pending
            pending.append((value, size))
            if len(pending) >= _PENDING:
                self.merge()

    def merge(self) -> None:
        """Fold the waiting values into the epoch's. Nothing waits for the device."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        if not isinstance(self.reduce, str):
            self.total = [*(self.total or []), *(_as_tensor(value) for value, _ in pending)]
            return
        groups: dict[tuple[Any, ...], list[tuple[Any, int]]] = {}
        for value, size in pending:
            kind = (value.dtype, value.device) if isinstance(value, Tensor) else (type(value),)
            groups.setdefault(kind, []).append((value, size))
        for group in groups.values():
            part = _Part.of(self.reduce, group)
            self.total = part if self.total is None else self.total.joined(part, self.reduce)

    # -- reading
    def step_value(self) -> Any:
        if self.metric is not None:
            return self.metric._forward_cache  # what the metric's own forward computed for this batch
        return self.last

    def epoch_value(self) -> Any:
        if self.metric is not None:
            return self.metric.compute()
        if self.reduce == "last":
            return self.last
        self.merge()
        if not isinstance(self.reduce, str):
            return None if self.total is None else self.reduce(torch.stack(self.total))
        return None if self.total is None else self.total.value(self.reduce)

    # -- kept across a resume
    def state_dict(self) -> dict[str, Any]:
        reduce = self.reduce if isinstance(self.reduce, str) else getattr(self.reduce, "__qualname__", "function")
        total = self.total
        return {
            "where": self.where,
            "name": self.name[: len(self.name) - len(self.suffix)],
            "suffix": self.suffix,
            "asked": [*self.asked[:4], reduce, *self.asked[5:]],
            "last": self.last,
            "touched": self.touched,
            "total": total.state() if isinstance(total, _Part) else total,
            "pending": [list(pair) for pair in self.pending],
        }


class _Part:
    """A sum (or minimum, maximum) and a count, exact: integers as Python's, floats in double precision."""

    __slots__ = ("amount", "count", "dtype")

    def __init__(self, amount: Any, count: int, dtype: torch.dtype | None) -> None:
        self.amount, self.count, self.dtype = amount, count, dtype

    @classmethod
    def of(cls, reduce: str, group: list[tuple[Any, int]]) -> _Part:
        count = sum(size for _, size in group)
        if not isinstance(group[0][0], Tensor):
            return cls(_fold_numbers(reduce, group), count, None)
        dtype = group[0][0].dtype
        if reduce in ("min", "max"):
            stacked = torch.stack([value for value, _ in group])
            return cls(stacked.amin() if reduce == "min" else stacked.amax(), count, dtype)
        wide = _wide(dtype, group[0][0].device)
        if reduce == "sum":
            return cls(torch.stack([value for value, _ in group]).to(wide).sum(), count, dtype)
        by_size: dict[int, list[Tensor]] = {}
        for value, size in group:
            by_size.setdefault(size, []).append(value)
        # one product per batch size instead of a tensor of weights: nothing is copied to the device
        sums = [torch.stack(values).to(wide).mul_(size).sum() for size, values in by_size.items()]
        return cls(sums[0] if len(sums) == 1 else torch.stack(sums).sum(), count, dtype)

    def joined(self, other: _Part, reduce: str) -> _Part:
        mine, theirs = self.amount, other.amount
        dtype = self.dtype if self.dtype == other.dtype else (self.dtype or other.dtype)
        if reduce in ("min", "max"):
            if isinstance(mine, Tensor) or isinstance(theirs, Tensor):
                choose = torch.minimum if reduce == "min" else torch.maximum
                first, second = _as_tensor(mine), _as_tensor(theirs)
                return _Part(choose(first, second.to(first.device)), self.count + other.count, dtype)
            return _Part(_fold_numbers(reduce, [(mine, 1), (theirs, 1)]), self.count + other.count, dtype)
        if isinstance(mine, Tensor) and isinstance(theirs, Tensor) and mine.device != theirs.device:
            theirs = theirs.to(mine.device)
        return _Part(mine + theirs, self.count + other.count, dtype)

    def value(self, reduce: str) -> Any:
        amount = self.amount
        if reduce == "mean":
            if not isinstance(amount, Tensor):
                return amount / self.count
            mean = amount / self.count if amount.is_floating_point() else amount.double() / self.count
            narrow = self.dtype is not None and self.dtype.is_floating_point
            return mean.to(torch.promote_types(self.dtype, torch.float32)) if narrow and self.dtype else mean
        if isinstance(amount, Tensor) and self.dtype is not None and self.dtype.is_floating_point:
            return amount.to(torch.promote_types(self.dtype, torch.float32))
        return amount

    def state(self) -> dict[str, Any]:
        return {"amount": self.amount, "count": self.count, "dtype": self.dtype}


def _wide(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    if not dtype.is_floating_point:
        return torch.int64
    return torch.float32 if device.type == "mps" else torch.float64  # MPS has no double precision


def _fold_numbers(reduce: str, group: list[tuple[Any, int]]) -> Any:
    values = [value for value, _ in group]
    if reduce in ("min", "max"):
        if any(isinstance(value, float) and math.isnan(value) for value in values):
            return math.nan
        return min(values) if reduce == "min" else max(values)
    if reduce == "mean":
        values = [value * size for value, size in group]
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value)
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _read_reduction(name: str, reduce: Reduction) -> Reduction:
    known: dict[Any, str] = {
        torch.mean: "mean",
        torch.sum: "sum",
        torch.min: "min",
        torch.max: "max",
        torch.amin: "min",
        torch.amax: "max",
        min: "min",
        max: "max",
        sum: "sum",
    }
    if isinstance(reduce, str):
        if reduce.lower() in ("avg",):
            return "mean"
        if reduce.lower() in REDUCTIONS:
            return reduce.lower()
        raise IllegalLog(
            f"self.log({name!r}, reduce_fx={reduce!r}): reduce_fx must be one of {', '.join(REDUCTIONS)}, or a function that "
            f"turns the stacked values into one."
        )
    try:
        return known.get(reduce, reduce)
    except TypeError:
        return reduce


def _read_places(where: str, name: str, on_step: bool | None, on_epoch: bool | None) -> tuple[bool, bool]:
    allowed, default = WHERE_LEGAL[where]
    step = (default == _STEP) if on_step is None else bool(on_step)
    epoch = (default == _EPOCH) if on_epoch is None else bool(on_epoch)
    if step and _STEP not in allowed:
        raise IllegalLog(
            f"self.log({name!r}, on_step=True) in {where}: there is no step here. Log with on_epoch=True, or log in a step hook."
        )
    if not epoch and _STEP not in allowed:
        raise IllegalLog(
            f"self.log({name!r}, on_epoch=False) in {where}: there is no step here, so only the epoch's value can be logged. "
            f"Leave on_epoch out."
        )
    if not step and not epoch:
        raise IllegalLog(f"self.log({name!r}, on_step=False, on_epoch=False) would log nothing. Set one of them to True.")
    return step, epoch


class Collection:
    """What was logged in one epoch of one stage."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str, int | None], Entry] = {}

    def reset(self) -> None:
        """Begin anew. torchmetrics metrics that were logged are reset too."""
        for entry in self.entries.values():
            if entry.metric is not None and entry.touched:
                entry.metric.reset()
            entry.reset()

    def step_values(self) -> Iterator[tuple[Entry, Any]]:
        for entry in self.entries.values():
            if entry.on_step and entry.touched:
                value = entry.step_value()
                if value is not None:
                    yield entry, value

    def epoch_values(self, loader: int | None = None, only_loader: bool = False) -> Iterator[tuple[Entry, Any]]:
        for (_, _, index), entry in self.entries.items():
            if entry.on_epoch and entry.touched and (not only_loader or index == loader):
                value = entry.epoch_value()
                if value is not None:
                    yield entry, value


class Metrics:
    """Everything logged in a run. The loops say where it is; the module logs; loggers, callbacks and the bar read."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._now: Collection | None = None
        self._entries: dict[tuple[str, str, int | None], Entry] = {}
        self._epoch_over = False
        self._callback: dict[str, Tensor] = {}
        self._logged: dict[str, Any] = {}
        self._bar: dict[str, Any] = {}
        self._ask_where: Callable[[], str | None] = lambda: None
        self._batch: Any = None
        self._size: int | None = None
        self._sample_count: Callable[[], int | None] = lambda: None
        self._loader: int | None = None
        self.silent = False  # barebones: nothing is logged

    # -- said by the loops
    def begin(self, where: Callable[[], str | None]) -> None:
        """A verb starts: ``where`` tells which hook runs at any moment."""
        self._collections = {}
        self._now = None
        self._entries = {}
        self._epoch_over = False
        self._callback, self._logged, self._bar = {}, {}, {}
        self._ask_where = where
        self._batch = self._size = self._loader = None

    def enter(self, stage: str) -> None:
        """Log into ``stage``'s collection from now on."""
        self._now = self._collections.setdefault(stage, Collection())
        self._entries = self._now.entries
        self._loader = None
        self._epoch_over = False

    def start_epoch(self, stage: str) -> None:
        """Begin a new epoch of ``stage``."""
        self.enter(stage)
        assert self._now is not None
        self._now.reset()

    def leave(self, stage: str | None, epoch_over: bool = False) -> None:
        """Go back to ``stage``'s collection, as it was."""
        self._keep()
        if stage is None:
            self._now, self._entries = None, {}
        else:
            self.enter(stage)
        self._epoch_over = epoch_over

    def forget(self, stage: str) -> None:
        """Drop what ``stage`` logged, as if it had not run: the sanity check leaves no metric behind."""
        collection = self._collections.pop(stage, None)
        if collection is not None:
            collection.reset()
        self._now, self._entries, self._epoch_over = None, {}, False
        self._callback, self._logged, self._bar = {}, {}, {}

    def at(self, batch: Any, loader: int | None, sample_count: Callable[[], int | None]) -> None:
        """The batch that runs now, the number of its loader where there are several, and who can count its samples."""
        self._batch, self._size, self._loader, self._sample_count = batch, None, loader, sample_count

    def end_batches(self) -> None:
        """The epoch's batches are over: from now on its values are the epoch's."""
        self._keep()
        self._batch = None
        self._size = None
        self._epoch_over = True
        self._loader = None

    # -- said by the module
    def log(self, name: str, value: Any, asked: AskedLog, batch_size: int | None) -> None:
        """Merge one value into the entry of its name and hook."""
        if self.silent:
            return
        where = self._ask_where()
        entry = self._entries.get((where, name, self._loader))  # type: ignore[arg-type]  # an unknown place is refused in _new
        if entry is None:
            entry = self._new(where, name, value, asked)
        elif entry.asked != asked:
            raise IllegalLog(
                f"self.log({name!r}, ...) was called in {where} with other arguments than before. Log it the same way "
                f"every time, or under another name."
            )
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
                value = value.squeeze()
        elif not isinstance(value, int | float) or isinstance(value, bool):
            value = self._unusual(entry, name, value)
            if value is None:
                return
        if entry.on_epoch and batch_size is None and entry.reduce == "mean":
            batch_size = self._size
            if batch_size is None:
                batch_size = self._size = self._read_size(name)
        entry.add(value, 1 if batch_size is None else batch_size)

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
        entry = Entry(where, name, asked, suffix)
        self._entries[where, name, self._loader] = entry
        return entry

    def _unusual(self, entry: Entry, name: str, value: Any) -> Any:
        """A value that is neither tensor nor number: a metric keeps itself, a numpy scalar is unpacked."""
        if _is_metric(value):
            if entry.metric is not None and entry.metric is not value:
                raise IllegalLog(f"self.log({name!r}, ...) was given another metric object than before. Give each its own name.")
            entry.metric = value
            entry.touched = True
            return None
        if isinstance(value, bool):
            return int(value)
        if hasattr(value, "item") and getattr(value, "size", None) == 1:
            return value.item()  # numpy's scalars live on the CPU: nothing waits
        if isinstance(value, Mapping):
            raise IllegalLog(f"self.log({name!r}, {{...}}) got a dict. Use self.log_dict for several values.")
        del self._entries[next(key for key, kept in self._entries.items() if kept is entry)]
        raise IllegalLog(
            f"self.log({name!r}, ...) got {type(value).__name__}. What can be logged: a tensor with one element, a number, or a "
            f"torchmetrics metric."
        )

    def _read_size(self, name: str) -> int:
        if self._batch is None:
            return 1
        sizes = {leaf.size(0) if leaf.dim() else 1 for leaf in tree_leaves(self._batch, Tensor)}
        if len(sizes) == 1:
            return sizes.pop()
        counted = self._sample_count()
        if counted is not None:
            return counted
        if not sizes:
            texts = sum(1 for _ in tree_leaves(self._batch, str))
            if texts:
                return texts
        what = f"holds tensors with first dimensions {sorted(sizes)}" if sizes else "holds no tensor"
        raise AmbiguousBatchSize(
            f"self.log({name!r}, ...) needs the batch's size for an exact epoch mean, and the batch {what}. Pass it: "
            f"self.log({name!r}, ..., batch_size=...)."
        )

    # -- read by callbacks, loggers, the bar
    def _keep(self) -> None:
        """Take the newest values of the running collection over into the three views."""
        now = self._now
        if now is None:
            return
        if self._epoch_over:
            for entry, value in now.epoch_values():
                self._take(entry, entry.epoch_name, value, callback=True)
        else:
            training = now is self._collections.get("train")
            for entry, value in now.step_values():
                self._take(entry, entry.step_name, value, callback=training)

    def _take(self, entry: Entry, name: str, value: Any, callback: bool) -> None:
        if callback:
            tensor = _as_tensor(value)
            self._callback[entry.name] = tensor
            self._callback[name] = tensor
        if entry.bar:
            self._bar[name] = value

    def callback(self) -> dict[str, Tensor]:
        """The newest value under each name."""
        self._keep()
        return self._callback

    def logged(self) -> dict[str, Tensor]:
        """What was last sent to the loggers."""
        return {name: _as_tensor(value) for name, value in self._logged.items()}

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
                self._callback[name] = _as_tensor(value)
            if bar:
                self._bar[name] = value
            if logged:
                self._logged[name] = value

    def step_row(self) -> dict[str, Any]:
        """What the loggers get of this batch."""
        if self._now is None:
            return {}
        row = {entry.step_name: value for entry, value in self._now.step_values() if entry.logger}
        self._logged.update(row)
        return row

    def epoch_row(self) -> dict[str, Any]:
        """What the loggers get of this epoch."""
        if self._now is None:
            return {}
        row = {entry.epoch_name: value for entry, value in self._now.epoch_values() if entry.logger}
        self._logged.update(row)
        return row

    def epoch_results(self, loader: int | None) -> dict[str, Any]:
        """The epoch's values of one loader (of all hooks that belong to none, where ``loader`` is ``None``)."""
        if self._now is None:
            return {}
        return {entry.epoch_name: value for entry, value in self._now.epoch_values(loader, only_loader=True)}

    def names(self) -> list[tuple[str, str]]:
        """Hook and name of everything logged in the running epoch."""
        return [(key[0], key[1]) for key, entry in self._entries.items() if entry.touched]

    def has_step_values(self) -> bool:
        return any(entry.on_step and entry.touched and entry.logger for entry in self._entries.values())

    # -- kept across a resume
    def state_dict(self) -> dict[str, Any]:
        """Half-filled accumulators of every stage, and the newest values."""
        return {
            "collections": {
                stage: [{**entry.state_dict(), "loader": key[2]} for key, entry in collection.entries.items()]
                for stage, collection in self._collections.items()
            },
            "callback": dict(self._callback),
            "logged": dict(self._logged),
            "bar": dict(self._bar),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave. Functions given as ``reduce_fx`` are bound again when they first log."""
        for stage, entries in state["collections"].items():
            collection = self._collections.setdefault(stage, Collection())
            for kept in entries:
                asked = cast(AskedLog, tuple(kept["asked"]))
                known = isinstance(asked[4], str) and asked[4] in REDUCTIONS
                if not known:
                    continue
                entry = Entry(kept["where"], kept["name"], asked, kept["suffix"])
                entry.last, entry.touched = kept["last"], kept["touched"]
                total = kept["total"]
                entry.total = _Part(**total) if isinstance(total, dict) else total
                entry.pending = [(value, size) for value, size in kept["pending"]]
                collection.entries[kept["where"], kept["name"], kept["loader"]] = entry
        self._callback = dict(state["callback"])
        self._logged = dict(state["logged"])
        self._bar = dict(state["bar"])


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
    return torch.stack([value.detach().reshape(()) for value in values])
