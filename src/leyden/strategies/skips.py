"""Batches that give no loss on some of the processes: the others' gradients are not kept waiting, and stay a mean."""

from __future__ import annotations

import dis
import itertools
import time
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leyden.distributed.processes import Processes
from leyden.errors import Unsupported

PATIENCE = 30.0
"""Seconds for which a process that skips a batch waits for the others' word, where parameters are in shards."""
_LOOKS_EVERY = 0.002


class Skips:
    """What a window of batches comes to on all processes, where ``training_step`` may return ``None`` on one of them.

    Who skips a batch notes that in the store of the process group, and takes part in the exchange of gradients with zeros. That
    exchange lies between the note and the look that every process takes at it, so all see the same, and nothing else is
    exchanged.

    Args:
        processes: all of them.
        parameters: what yields the module's parameters; gradients are exchanged of those that are trained.
        expect: called with what a backward begins at, before it.
    """

    def __init__(
        self, processes: Processes, parameters: Callable[[], Iterable[nn.Parameter]], expect: Callable[[Tensor], Any]
    ) -> None:
        self.processes, self.parameters, self.expect = processes, parameters, expect
        self.store = processes.store
        self.name = processes.next_name("leyden/skip")
        self.window = 0
        self.meets = True
        """Whether the running batch ends its window, so that gradients are exchanged. Set before it."""

    @property
    def key(self) -> str:
        return f"{self.name}/{self.window}"

    def skip(self, zero: Callable[[], Any] | None) -> None:
        """The running batch gave no loss; ``zero`` resets gradients that are not of this window."""
        self.store.add(self.key, 1)
        if not self.meets:
            return
        if zero is not None:
            zero()
        nothing = torch.stack(
            [parameter.reshape(-1)[:0].sum() for parameter in self.parameters() if parameter.requires_grad]
        ).sum()
        self.expect(nothing)
        nothing.backward()

    def settle(self, batches: int, contributed: float) -> float:
        """The window is over: how many of its ``batches`` gave a loss, as a mean over the processes."""
        key = self.key
        self.window += 1
        if not self.store.check([key]):
            return contributed
        world = self.processes.world
        return (world * batches - int(self.store.get(key))) / world


class SkippedByAll:
    """``training_step`` where every process takes part in each exchange of forward and backward: all skip a batch, or none.

    Who skips one looks into the store of the process group for what the others have done. Raises :class:`Unsupported` where
    another has a loss, or for :data:`PATIENCE` seconds neither a loss nor ``None``.
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
        key, world = f"{self.name}/skipped/{self.batch}", self.processes.world
        self.store.add(key, 1)
        until = time.monotonic() + PATIENCE
        while int(self.store.add(key, 0)) < world:
            for rank in range(world):
                if self.store.check([self._key(rank)]) and int(self.store.get(self._key(rank))) >= self.batch:
                    return f"a loss on process {rank}"
            if time.monotonic() > until:
                return f"no other one has ended its step in {PATIENCE:g} seconds: it may wait for this one in a layer"
            time.sleep(_LOOKS_EVERY)
        return ""


def may_skip(module: nn.Module) -> bool:
    """Whether ``training_step`` of ``module`` can return ``None``, as its code says, or that of a method that it returns from."""
    step = getattr(type(module), "training_step", None)
    code = getattr(step, "__code__", None)
    if code is None:
        return True  # wrapped: nobody knows
    if _returns_none(code):
        return True
    if not _returns_a_call(code):
        return False
    if code.co_freevars:
        return True  # a decorator's, or a parent's: nobody knows
    own = (getattr(type(module), name, None) for name in code.co_names)
    codes = [method.__code__ for method in own if isinstance(method, types.FunctionType) and _is_users(method)]
    return any(map(_returns_none, codes))


def _is_users(method: types.FunctionType) -> bool:
    return not method.__module__.startswith(("torch.", "leyden."))


def _pairs(code: types.CodeType) -> Iterator[tuple[dis.Instruction, dis.Instruction]]:
    """Each instruction with the one that runs after it, over one jump at most."""
    found = [each for each in dis.get_instructions(code) if each.opname not in ("NOP", "RESUME", "CACHE")]
    at = {each.offset: each for each in found}
    for first, then in itertools.pairwise(found):
        yield first, at.get(then.argval, then) if then.opname.startswith("JUMP") else then


def _returns_none(code: types.CodeType) -> bool:
    return any(each.opname == "RETURN_CONST" and each.argval is None for each in dis.get_instructions(code)) or any(
        first.opname == "LOAD_CONST" and first.argval is None and then.opname == "RETURN_VALUE" for first, then in _pairs(code)
    )


def _returns_a_call(code: types.CodeType) -> bool:
    return any(first.opname.startswith("CALL") and then.opname == "RETURN_VALUE" for first, then in _pairs(code))
