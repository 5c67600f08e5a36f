"""One logged name: where it may be logged, as what, and what came of it so far."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from numbers import Number
from typing import Any

import torch
from torch import Tensor

from leyden.checked import is_switch
from leyden.errors import IllegalLog
from leyden.hook_facts import WHERE_LEGAL
from leyden.metrics.accumulators import Accumulator, Extreme, Last, Pending, Stacked, Sum, as_tensor, bare

Reduction = str | Callable[[Tensor], Any]
AskedLog = tuple[bool, bool | None, bool | None, bool | None, Reduction | None, bool, bool, bool | None]
"""prog_bar, logger, on_step, on_epoch, reduce_fx, add_dataloader_idx, enable_graph, sync_dist.

``None`` as ``reduce_fx``: a function that a checkpoint could not hold. ``None`` as ``sync_dist``: each process's own value,
of which no other is told (``rank_zero_only=True``).
"""

_STEP, _EPOCH = "step", "epoch"


def is_of_a_batch(hook: str) -> bool:
    """Whether the hook runs at every batch."""
    return _STEP in WHERE_LEGAL[hook][0]


REDUCTIONS = ("mean", "sum", "min", "max", "last")
_NAMED: dict[Any, str] = {
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
_PENDING = 128  # values that wait before they are merged: one stacked operation instead of one per batch
_UNREAD = object()


class Entry:
    """One logged name of one hook: its newest value, and the epoch's so far."""

    __slots__ = (
        "agreed",
        "asked",
        "bar",
        "computed",
        "epoch_name",
        "graph",
        "last",
        "logger",
        "metric",
        "name",
        "on_epoch",
        "on_step",
        "own",
        "pending",
        "reduce",
        "step_name",
        "suffix",
        "syncs",
        "total",
        "touched",
        "weight",
        "where",
    )

    def __init__(self, where: str, name: str, asked: AskedLog, suffix: str) -> None:
        bar, logger, on_step, on_epoch, reduce, _, graph, sync = asked
        self.where, self.asked, self.bar, self.graph, self.suffix = where, asked, bar, graph, suffix
        self.logger = True if logger is None else logger
        self.reduce: Reduction = _unbound if reduce is None else read_reduction(name, reduce)
        self.syncs, self.own = bool(sync), sync is None
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
        self.weight = 1  # samples that the newest value stands for
        self.touched = False
        self.total: Accumulator = self.new_total()
        self.pending: Pending = []
        self.computed: Any = _UNREAD
        self.agreed: tuple[Any, Any] | None = None  # a step's value here, and what those of all processes came to

    def new_total(self) -> Accumulator:
        """What merges values as was asked for, with nothing in it."""
        if not isinstance(self.reduce, str):
            return Stacked(self.name, None if self.reduce is _unbound else self.reduce)
        if self.reduce in ("min", "max"):
            return Extreme(self.reduce)
        return Last() if self.reduce == "last" else Sum(self.reduce == "mean")

    # -- during a batch
    def add(self, value: Any, size: int) -> None:
        """Merge one value into the epoch's. ``size`` is the number of samples that it stands for."""
        self.touched = True
        self.last = value
        self.weight = size
        self.computed = _UNREAD
        pending = self.pending
        pending.append((value, size))
        if len(pending) >= _PENDING:
            self.merge()

    def merge(self) -> None:
        """Fold the waiting values into the epoch's. Nothing waits for the device."""
        pending, self.pending = self.pending, []
        if pending:
            self.total.add(pending)

    # -- reading
    @property
    def kind(self) -> str:
        """How values are merged, in a word that is the same on every process."""
        if self.metric is not None:
            return "metric"
        return self.reduce if isinstance(self.reduce, str) else "function"

    @property
    def is_open(self) -> bool:
        """Whether something was logged that :meth:`close` has not read."""
        return self.computed is _UNREAD

    def close(self) -> None:
        """Read what the epoch's values come to. Waits for the device."""
        if self.computed is _UNREAD:
            if self.metric is not None:
                self.computed = self._single(self.metric.compute())
            else:
                self.merge()
                self.computed = self.total.value()

    def reduce_by(self, reduce: Any) -> None:
        """Let ``reduce(tensor, reduce_op=word)`` make the epoch's value of what this process counted, and the others."""
        total = self.total
        if isinstance(total, Sum) and total.mean:
            summed = reduce(as_tensor(total.summed()), reduce_op="mean")
            self.computed = summed / reduce(torch.tensor(total.count), reduce_op="mean")
        elif isinstance(total, Sum | Extreme):
            value = total.value()
            self.computed = None if value is None else reduce(as_tensor(value), reduce_op=str(self.reduce))

    def step_value(self) -> Any:
        """The newest value. A metric's is what its own forward computed for this batch, ``None`` where it was only updated."""
        if self.metric is not None:
            return self._single(self.metric._forward_cache)
        return self.last if self.agreed is None or self.agreed[0] is not self.last else self.agreed[1]

    def epoch_value(self) -> Any:
        """What the epoch's values came to; before they are read the newest of them, and of a metric nothing."""
        if self.computed is _UNREAD:
            return None if self.metric is not None else self.last
        return self.computed

    def _single(self, value: Any) -> Any:
        if isinstance(value, Tensor) and not self.graph:  # a metric may be the loss too
            value = value.detach()
        if value is None or (isinstance(value, Tensor) and not value.dim()) or isinstance(value, int | float):
            return value
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.reshape(())
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise IllegalLog(
            f"The metric logged as {self.name!r} computes {shape}. Only single values can be logged: call compute() yourself "
            f"and log its parts, with self.log_dict."
        )

    def touch_metric(self, metric: Any) -> None:
        """``metric`` was logged: its value is read when somebody asks."""
        self.metric = metric
        self.touched = True
        self.computed = _UNREAD

    def ask_again(self, name: str, asked: AskedLog) -> None:
        """The name was logged before in this hook, with arguments that are not the same objects. They have to say the same."""
        self.bind(asked)
        if not same_asked(name, self.asked, asked):
            raise IllegalLog(
                f"self.log({name!r}, ...) was called in {self.where} with other arguments than before. Log it the same way "
                f"every time, or under another name."
            )
        self.asked = asked

    # -- kept across a resume
    def state_dict(self) -> dict[str, Any]:
        named = isinstance(self.reduce, str)
        self.merge()
        return {
            "where": self.where,
            "name": self.name.removesuffix(self.suffix),
            "suffix": self.suffix,
            "asked": [*self.asked[:4], self.reduce if named else None, *self.asked[5:]],
            "computed": self.computed if not self.is_open else None if named or not self.touched else self.total.value(),
            "read": not self.is_open,
            "last": bare(self.last) if isinstance(self.last, Tensor) else self.last,
            "touched": self.touched,
            "total": self.total.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave."""
        self.last, self.touched, self.pending, self.agreed = state["last"], state["touched"], [], None
        self.computed = state["computed"] if state.get("read") else _UNREAD  # 0.1.0 did not say
        if not state.get("empty"):  # of a process that was not there when it was logged
            self.total.load_state_dict(state["total"])
        for counted in state.get("more", ()):  # by a process that is not there any more
            other = self.new_total()
            other.load_state_dict(counted)
            self.total.take_over(other)
        if isinstance(self.total, Stacked):
            self.total.known = state["computed"]

    def bind(self, asked: AskedLog) -> None:
        """Take the function that reduces, where the entry came out of a checkpoint, which can hold none."""
        if self.reduce is _unbound:
            self.reduce = read_reduction(self.name, asked[4])
            self.asked = (*self.asked[:4], asked[4], *self.asked[5:])
            if isinstance(self.total, Stacked) and not isinstance(self.reduce, str):
                self.total.function = self.reduce


def check_place(name: Any, where: str | None, runs: bool) -> None:
    """Raise :class:`IllegalLog` where ``name`` is no name, or nothing can be logged in the hook ``where`` (``None``: in none).

    ``runs``: whether a stage runs that values can belong to.
    """
    if not isinstance(name, str):
        raise IllegalLog(f"self.log({name!r}, ...): a metric's name must be a string, and this is {type(name).__name__}.")
    if not name:
        raise IllegalLog("self.log('', ...): a metric needs a name, by which loggers, callbacks and files tell it from others.")
    if where not in WHERE_LEGAL or not runs:
        place = f"in {where}" if where else "outside of the trainer's hooks"
        raise IllegalLog(
            f"self.log({name!r}, ...) was called {place}, where nothing can be logged. It is legal in: {', '.join(WHERE_LEGAL)}."
        )
    if "/dataloader_idx_" in name:
        raise IllegalLog(
            f"self.log({name!r}, ...): the part '/dataloader_idx_' is added by the trainer. Leave it out of the name; "
            f"add_dataloader_idx=False keeps the trainer from adding it."
        )


def read_reduction(name: str, reduce: Reduction | None) -> Reduction:
    """``reduce_fx`` as one of our names, or a function of the stacked values. Raises :class:`IllegalLog` for anything else."""
    if isinstance(reduce, str):
        word = reduce.lower()
        if word == "avg":
            return "mean"
        if word in REDUCTIONS:
            return word
    elif callable(reduce):
        try:
            return _NAMED.get(reduce, reduce)
        except TypeError:  # not hashable
            return reduce
    raise IllegalLog(
        f"self.log({name!r}, reduce_fx={reduce!r}): reduce_fx must be one of {', '.join(REDUCTIONS)}, or a function that "
        f"turns the stacked values into one."
    )


def _unbound(values: Tensor) -> Tensor:
    """Stands where a function is to be given again."""
    raise AssertionError("a reduce_fx out of a checkpoint is given again when its value is logged")


def same_asked(name: str, first: AskedLog, second: AskedLog) -> bool:
    """Whether two calls ask for the same. A function written in the call (a lambda) is a new object each time it runs."""
    mine, theirs = (read_reduction(name, asked[4]) for asked in (first, second))
    same = getattr(mine, "__code__", mine) == getattr(theirs, "__code__", theirs)
    return bool(same and first[:4] == second[:4] and first[5:] == second[5:])


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


# -- torchmetrics, which is imported by those who use it
def is_metric(value: object) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.Metric)


def is_collection(value: object) -> bool:
    torchmetrics = sys.modules.get("torchmetrics")
    return torchmetrics is not None and isinstance(value, torchmetrics.MetricCollection)


def check_switches(name: str, asked: AskedLog) -> None:
    """Raise :class:`IllegalLog` where one of the arguments that say yes or no says something else."""
    for switch, given in zip(("prog_bar", "logger", "on_step", "on_epoch"), asked, strict=False):
        if not (given is None or is_switch(given)):
            raise IllegalLog(f"self.log({name!r}, {switch}={given!r}): {switch} must be True, False or None.")


def check_kind(name: str, value: Any) -> None:
    """Raise :class:`IllegalLog` where ``value`` is nothing that can be logged."""
    if isinstance(value, Tensor):
        if value.is_complex():
            raise IllegalLog(f"self.log({name!r}, ...) got a complex tensor. Log its real and imaginary parts.")
        kind = _unaddable(value)
        if kind is not None:
            raise IllegalLog(f"self.log({name!r}, ...) got a {kind} tensor, whose values cannot be added. Log it as {_AS[kind]}.")
        return
    if is_metric(value) or (isinstance(value, Number) and not isinstance(value, complex)):
        return
    if hasattr(value, "item") and getattr(value, "size", None) == 1 and isinstance(value.item(), int | float):
        return
    if isinstance(value, Mapping) or is_collection(value):
        kind = "MetricCollection" if is_collection(value) else "dict"
        raise IllegalLog(f"self.log({name!r}, ...) got a {kind}. Use self.log_dict for several values.")
    raise IllegalLog(
        f"self.log({name!r}, ...) got {type(value).__name__}. What can be logged: a tensor with one element, a number, or a "
        f"torchmetrics metric."
    )


_AS = {
    "sparse": "a dense one: value.to_dense()",
    "quantized": "a plain one: value.dequantize()",
    "meta": "one that holds data",
    "float8": "float32: value.float()",
}


def _unaddable(value: Tensor) -> str | None:
    """The kind of a tensor that PyTorch cannot stack or add, where it is of one."""
    if value.is_meta:
        return "meta"
    if value.layout is not torch.strided:
        return "sparse"
    if value.is_quantized:
        return "quantized"
    return "float8" if value.dtype.is_floating_point and value.dtype.itemsize < 2 else None


_SINGLE = (Tensor, float, int)  # what nearly every value is, and what needs not be asked whether it holds others


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values of a nested mapping, names joined by ``/``."""
    # a collection's groups share their states; copying them here would break the sharing
    collection: Any = values
    items = collection.items(copy_state=False) if type(values) is not dict and is_collection(values) else values.items()
    for name, value in items:
        if not isinstance(name, str):
            raise IllegalLog(f"A metric's name must be a string, and {name!r} is {type(name).__name__}.")
        if type(value) not in _SINGLE and (isinstance(value, Mapping) or is_collection(value)):
            yield from flattened(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
