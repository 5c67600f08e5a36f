"""Batches that give no loss on some of the processes: the others' gradients are not kept waiting, and stay a mean."""

from __future__ import annotations

import dis
import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from leyden.distributed.processes import Processes
from leyden.distributed.talks import Talks
from leyden.distributed.unforeseen import Unforeseen, everyone
from leyden.errors import Unsupported


class Skips:
    """What a window of batches comes to on all processes, where ``training_step`` may return ``None`` on one of them.

    Who skips a batch notes that in the store of the process group, and takes part in the exchange of gradients with zeros. That
    exchange lies between the note and the look that every process takes at it, so all see the same, and nothing else is
    exchanged. Nobody looks before the first batch is skipped: whoever skips that one waits until all have heard that some are.

    Args:
        processes: all of them.
        talks: by which they hear of the first one.
        parameters: what yields the module's parameters; gradients are exchanged of those that are trained.
        expect: called with what a backward begins at, before it.
        enter: a forward in which nothing happens but what the processes exchange in it.
        backed: called after that backward.
        await_exchange: returns when the newest exchange of gradients is over.
    """

    def __init__(
        self,
        processes: Processes,
        talks: Talks,
        parameters: Callable[[], Iterable[nn.Parameter]],
        expect: Callable[[Tensor], Any],
        enter: Callable[[], Any],
        backed: Callable[[], Any],
        await_exchange: Callable[[], Any],
    ) -> None:
        self.processes, self.talks, self.parameters = processes, talks, parameters
        self.expect, self.enter, self.backed, self.await_exchange = expect, enter, backed, await_exchange
        self.store = processes.store
        self.name = processes.next_name("leyden/skip")
        self.window = 0
        self.meets = True
        """Whether the running batch ends its window, so that gradients are exchanged. Set before it."""
        self.cleared = False
        """Whether the gradients of the window before are gone already, though no batch of this one has brought any."""
        self._part = 0.0  # of a batch that is missing on each process, where a window goes on with another number of them

    @property
    def key(self) -> str:
        return f"{self.name}/{self.window}"

    def skip(self, zero: Callable[[], Any] | None, entered: bool = True) -> None:
        """The running batch gave no loss; ``zero`` resets gradients that are not of this window, and ``entered`` says whether
        there was a forward: none of a batch that is ``None``."""
        self.store.add(self.key, 1)
        self.talks.notify()
        if not entered:
            self.enter()
        if zero is not None and not self.cleared:
            zero()  # at once, and once: the backward of another optimizer's turn may exchange what is there
        self.cleared = True
        if not self.meets:
            return
        nothing = torch.stack(
            [parameter.reshape(-1)[:0].sum() for parameter in self.parameters() if parameter.requires_grad]
        ).sum()
        self.expect(nothing)
        nothing.backward()
        self.backed()

    def take_up(self, batches: int, contributed: float) -> None:
        """A resumed run begins inside a window: of its ``batches`` so far, so many ``contributed`` on this process."""
        self.cleared = contributed == 0
        missing = max(0.0, batches - contributed)
        self._part = missing % 1
        if missing >= 1:
            self.store.add(self.key, int(missing))
            self.talks.notify()

    def settle(self, batches: int, contributed: float) -> float:
        """The window is over: how many of its ``batches`` gave a loss, as a mean over the processes."""
        key, part = self.key, self._part
        self.window += 1
        self.cleared, self._part = False, 0.0
        self.await_exchange()
        if not self.talks.noticed or not self.store.check([key]):
            return contributed
        world = self.processes.world
        return batches - part - int(self.store.get(key)) / world

    def settle_unfilled(
        self, batches: int, contributed: float, trained: Sequence[Tensor], average: Callable[[Sequence[Tensor]], None]
    ) -> float:
        """As :meth:`settle`, where no backward has exchanged the gradients of ``trained``: ``average`` does it."""
        if not contributed:
            for parameter in trained:
                parameter.grad = None  # of the window before
        average(trained)
        return self.settle(batches, contributed)


class SkippedByAll:
    """``training_step`` where every process takes part in each exchange of forward and backward: all skip a batch, or none.

    Who skips one looks into the store of the process group for what the others have done. Raises :class:`Unsupported` where
    another has a loss, or for :data:`~leyden.distributed.unforeseen.PATIENCE` seconds neither a loss nor ``None``.
    """

    def __init__(self, processes: Processes, step: Callable[..., Any], skipped: Callable[[], None]) -> None:
        self.processes, self.step, self.skipped = processes, step, skipped
        self.store = processes.store
        self.name = processes.next_name("leyden/skip")
        self.batch = 0

    def __call__(self, *args: Any) -> Any:
        outputs = self.step(*args)
        self.batch += 1
        if outputs is not None and not (isinstance(outputs, Mapping) and "loss" in outputs and outputs["loss"] is None):
            self.store.set(self._key(self.processes.rank), str(self.batch))
            return outputs
        others = self._others()
        if others:
            raise Unsupported(
                f"training_step returned None on process {self.processes.rank}, and {others}. Where parameters are in shards, "
                f"every process takes part in each exchange of forward and backward: let all of them skip a batch, or return "
                f"0 * loss on this one; strategy='ddp' leaves out a single process's."
            )
        self.skipped()
        return outputs

    def _key(self, rank: int) -> str:
        return f"{self.name}/{rank}"

    def _others(self) -> str:
        """What the others have done that did not skip; empty where all did."""
        return everyone(self.store, f"{self.name}/skipped/{self.batch}", self.processes.world, self._losses)

    def _losses(self) -> str:
        for rank in range(self.processes.world):
            if self.store.check([self._key(rank)]) and int(self.store.get(self._key(rank))) >= self.batch:
                return f"a loss on process {rank}"
        return ""


class ByHand:
    """Backwards that exchange gradients, in each step of manual optimization: as many on every process, or those of different
    losses would be added. Processes compare where their number is another than in the step before.

    Args:
        unforeseen: how they compare.
        by_name: whether nothing but ``manual_backward`` exchanges gradients.
    """

    def __init__(self, unforeseen: Unforeseen, by_name: bool) -> None:
        self.unforeseen, self.by_name = unforeseen, by_name
        self.backwards = 0
        self.usual: int | None = None
        self.ever = False

    def end_step(self, batch: int, has_stepped: bool) -> None:
        """A step is over. Raises :class:`Unsupported` where the processes differ, or nothing was exchanged."""
        count, self.backwards = self.backwards, 0
        self.ever = self.ever or count > 0
        if has_stepped and self.by_name and not self.ever:
            raise Unsupported(
                "training_step of manual optimization took a step, and has not called self.manual_backward: gradients that "
                "loss.backward() computes are this process's own, and each would train other weights. Call "
                "self.manual_backward(loss)."
            )
        if count == self.usual:
            return
        self.usual = count
        self.unforeseen.meet(
            f"batch {batch}, {count} backwards",
            f"training_step of manual optimization called manual_backward {count} times for batch {batch}",
            "Each call is an exchange, in which all processes take part: call it as often on all of them, with 0 * loss where "
            "there is nothing to learn.",
        )


def may_skip(module: nn.Module) -> bool:
    """Whether ``training_step`` of ``module`` can return ``None``, as its code says, or that of what it calls of the user's."""
    step = getattr(type(module), "training_step", None)
    if getattr(step, "__code__", None) is None:
        return True  # wrapped: nobody knows
    return _can_give_none(step, type(module), set())


def _can_give_none(function: Any, cls: type, seen: set[Any], directly: bool = False) -> bool:
    """Whether ``function``, or what it calls, gives ``None``; ``directly``: the value of a call counts where it is returned."""
    code = function.__code__
    if code in seen:
        return False
    seen.add(code)
    if _makes_none(code):
        return True
    if directly and not _returns_a_call(code):
        return False
    called = [vars(owner)[name] for name in code.co_names for owner in cls.__mro__ if name in vars(owner)]
    called += [function.__globals__[name] for name in code.co_names if name in function.__globals__]
    enclosed = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]  # a decorator's function is one
    if _returns_a_call(code) and any(_is_opaque(each) for each in enclosed):
        return True
    called += enclosed
    return any(
        _can_give_none(each, cls, seen, directly=True) and not _is_procedure(each.__code__)
        for each in called
        if isinstance(each, types.FunctionType) and _is_users(each)
    )


_KNOWN = (type, nn.Module, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
_DATA = (Tensor, bool, int, float, str, bytes, list, tuple, dict, set, types.NoneType, torch.device, torch.dtype)


def _is_opaque(enclosed: Any) -> bool:
    """Whether nobody knows what a call of it gives: of what a decorator has made, as a rule."""
    return not isinstance(enclosed, _KNOWN + _DATA)


def _is_users(function: types.FunctionType) -> bool:
    return not function.__module__.startswith(("torch.", "leyden."))


def _pairs(code: types.CodeType) -> Iterator[tuple[dis.Instruction, dis.Instruction]]:
    """Each instruction with the one that runs after it, over one jump at most."""
    found = [each for each in dis.get_instructions(code) if each.opname not in ("NOP", "RESUME", "CACHE")]
    at = {each.offset: each for each in found}
    for first, then in itertools.pairwise(found):
        yield first, at.get(then.argval, then) if then.opname.startswith("JUMP") else then


def _makes_none(code: types.CodeType) -> bool:
    """Whether ``None`` is returned, or becomes a variable or a value of a dict, which may be returned."""
    let_go = {each.argval for each in dis.get_instructions(code) if each.opname.startswith("DELETE_")}  # of "except ... as error"
    return any(each.opname == "RETURN_CONST" and each.argval is None for each in dis.get_instructions(code)) or any(
        then.opname == "RETURN_VALUE"
        or then.opname.startswith("BUILD_")
        or (then.opname in ("STORE_FAST", "STORE_DEREF") and then.argval not in let_go)
        for first, then in _pairs(code)
        if first.opname == "LOAD_CONST" and first.argval is None
    )


def _is_procedure(code: types.CodeType) -> bool:
    """Whether nothing but ``None`` is ever returned."""
    return all(
        first.opname == "LOAD_CONST" and first.argval is None for first, then in _pairs(code) if then.opname == "RETURN_VALUE"
    )


def _returns_a_call(code: types.CodeType) -> bool:
    return any(first.opname.startswith("CALL") and then.opname == "RETURN_VALUE" for first, then in _pairs(code))


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # of a name that is given a value later, or never
        return False
