"""Where a process stands when nothing moves any more, and whose fault that seems to be."""

from __future__ import annotations

import dis
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any

import torch.distributed as dist
from torch import Tensor

from leyden.distributed.last_words import HERE, is_users

_OF_EXCHANGES = (os.path.join("torch", "distributed", "distributed_c10d.py"), os.path.join("distributed", "nn", "functional.py"))
_OF_CHECKPOINTS = os.path.join(HERE, "checkpoint") + os.sep
_OF_RUNS = tuple(os.path.join(HERE, part) + os.sep for part in ("loops", "trainer", os.path.join("distributed", "launchers")))
_SAVING = ", in leyden_write_checkpoint\n"
_DEEPEST = 3
BACKWARD = "backward, where gradients are exchanged"
AWAITED = "wait() for an exchange that was begun with async_op=True"
_AT_MOST = 8  # instructions between a method and its call


@dataclass(frozen=True)
class Standing:
    """Where a process stands.

    Args:
        rank: whose.
        place: epoch, step, batch and hook, in words.
        exchange: the exchange that it waits in, or ``""``.
        number: exchanges that it has begun.
        batch: the last batch, in words.
        stack: of the main thread.
        still: seconds since something moved.
        call: the exchange with the tensors that it was given, and the place in the user's code that called it, if any did.
    """

    rank: int
    place: str
    exchange: str
    number: int
    batch: str
    stack: str
    still: float
    call: str = ""

    @property
    def waits_in(self) -> str:
        return self.call or self.exchange

    def shown(self) -> str:
        waits = f"waits in {self.waits_in}" if self.exchange else "waits in no exchange"
        head = f"process {self.rank}: {self.place}; {waits} (exchange {self.number}); nothing moved for {self.still:.0f} s"
        return f"{head}\n  last batch: {self.batch}\n{self.stack.rstrip()}\n"


def stand(rank: int, place: str, batch: Any, still: float) -> Standing:
    """Where this process stands: asked by another thread than the main one."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = traceback.extract_stack(frame)
    calls = [(frame.filename, frame.name) for frame in stack]
    shown = "".join(traceback.format_list(stack))
    exchange = _exchange(calls) or (AWAITED if _awaits(frame) else "")
    return Standing(rank, place, exchange, _begun(), describe(batch), shown, still, _call(frame))


def glance() -> tuple[bool, tuple[str, int]]:
    """Whether the main thread writes a checkpoint, which may take its time; and the exchange that it waits in, if any, with the
    number of those that it has begun."""
    frame, calls, saves = sys._current_frames().get(threading.main_thread().ident or 0), [], False
    awaited = AWAITED if _awaits(frame) else ""
    while frame is not None:
        code = frame.f_code
        saves = saves or code.co_filename.startswith(_OF_CHECKPOINTS)
        calls.append((code.co_filename, code.co_name))
        frame = frame.f_back
    name = _exchange(calls[::-1]) or awaited
    return saves, (name, _begun() if name else 0)


def saves() -> bool:
    """Whether the main thread writes a checkpoint."""
    return glance()[0]


def crossed(waits: Sequence[tuple[str, int]]) -> bool:
    """Whether processes that all wait in an exchange, each in its own of ``waits``, wait for each other for ever."""
    return all(name for name, _ in waits) and len(set(waits)) > 1


def _exchange(calls: Sequence[tuple[str, str]]) -> str:
    """Of files and functions, the outermost first."""
    found = ""
    for file, name in calls:
        if file.endswith(_OF_EXCHANGES) and not name.startswith("_") and name != "wrapper":
            found = found or name
    if not found and any(name in ("backward", "_engine_run_backward") for _, name in calls[-3:]):
        return BACKWARD
    return found


def _awaits(frame: FrameType | None) -> bool:
    """Whether ``frame`` is in a ``wait()`` that is no function of Python's: what an exchange with ``async_op=True`` returns."""
    return frame is not None and "wait" in frame.f_code.co_names and _calls_wait(frame.f_code, frame.f_lasti)


@lru_cache(
    maxsize=64
)  # of a long function this takes a while, in which no other thread runs, and a process that waits stays there
def _calls_wait(code: CodeType, at: int) -> bool:
    done = [each for each in dis.get_instructions(code) if each.offset <= at]
    methods = [each.argval for each in done[-_AT_MOST:] if each.opname in ("LOAD_METHOD", "LOAD_ATTR")]
    return bool(done) and done[-1].opname.startswith(("CALL", "PRECALL")) and methods[-1:] == ["wait"]


def _call(frame: FrameType | None) -> str:
    """The outermost exchange of ``frame`` and those around it in words, where it is not the run's own."""
    found = name = AWAITED if _awaits(frame) else ""
    while frame is not None:
        code = frame.f_code
        if _exchange([(code.co_filename, code.co_name)]) not in ("", BACKWARD):
            name = code.co_name
            given = [frame.f_locals.get(each) for each in code.co_varnames[: code.co_argcount]]
            tensors = [describe(each) for each in given if _has_tensors(each)]
            found = f"{name} of {' and '.join(tensors)}" if tensors else name
        elif found and is_users(code.co_filename):
            return f"{found}, called in {code.co_name} ({os.path.basename(code.co_filename)}:{frame.f_lineno})"
        elif code.co_filename.startswith(_OF_RUNS):
            return f"{name} of the run's own" if name else ""
        frame = frame.f_back
    return found


def _has_tensors(given: Any) -> bool:
    return isinstance(given, Tensor) or (isinstance(given, list | tuple) and any(isinstance(each, Tensor) for each in given))


def _begun() -> int:
    try:
        group: Any = dist.distributed_c10d._get_default_group()
        return int(group._get_sequence_number_for_group())
    except (RuntimeError, ValueError, AttributeError):
        return 0


def describe(batch: Any, depth: int = 0) -> str:
    """What a batch is made of: kinds, shapes and types, without a value being read."""
    if isinstance(batch, Tensor):
        return f"{str(batch.dtype).removeprefix('torch.')}{list(batch.shape)}"
    if isinstance(batch, Mapping) and depth < _DEEPEST:
        return "{" + ", ".join(f"{key}: {describe(value, depth + 1)}" for key, value in list(batch.items())[:8]) + "}"
    if isinstance(batch, tuple | list) and depth < _DEEPEST:
        return "(" + ", ".join(describe(value, depth + 1) for value in batch[:8]) + ")"
    return "none" if batch is None else type(batch).__name__


def suspects(standing: Mapping[int, Standing], world: int) -> tuple[list[int], str]:
    """Whose fault it seems to be, and why."""
    silent = [rank for rank in range(world) if rank not in standing]
    if silent:
        return silent, "does not answer: its main thread never lets others run, or the process is stopped"
    outside = [rank for rank, where in standing.items() if not where.exchange]
    if outside and len(outside) < world:
        return outside, "waits in no exchange, and the others wait for it"
    if len(outside) == world:
        return outside, "are at work or wait for something else, in no exchange"
    least = min(where.number for where in standing.values())
    behind = [rank for rank, where in standing.items() if where.number == least]
    if len(behind) < world:
        return behind, f"has begun fewer exchanges than the others: it skipped one, or is in another ({_where_each(standing)})"
    if len({where.waits_in for where in standing.values()}) > 1:
        return _odd_first(standing), f"wait in different exchanges: {_where_each(standing)}"
    return sorted(standing), "wait in the same exchange: shapes may differ, or the network does not answer"


def _odd_first(standing: Mapping[int, Standing]) -> list[int]:
    """Who does as few others do before the rest; of as many, who has not called an exchange of the user's."""
    times = Counter(where.waits_in for where in standing.values())
    return sorted(standing, key=lambda rank: (times[standing[rank].waits_in], ", called in " in standing[rank].call, rank))


def _where_each(standing: Mapping[int, Standing]) -> str:
    return ", ".join(f"process {rank} in {where.waits_in}" for rank, where in sorted(standing.items()))


def report(standing: Mapping[int, Standing], world: int, seconds: float, broken: bool = False) -> tuple[int, str, str]:
    """The first suspect, the reason in a line, and where every process stands, the suspects first. With ``broken`` PyTorch has
    given up an exchange."""
    ranks, why = suspects(standing, world)
    saving = [rank for rank, where in standing.items() if _SAVING in where.stack]
    alone = 0 < len(saving) < len(standing)
    if alone and set(saving) <= set(ranks):
        ranks.sort(key=lambda rank: rank not in saving)
    named = ", ".join(map(str, ranks))
    who = "The processes" if len(ranks) == world else f"Process {named}"
    what = "an exchange got more than was expected there" if broken else f"nothing moved for {seconds:g} s"
    reason = f"{what}. {who} {why}."
    if alone:
        who = ", ".join(map(str, saving))
        reason += f" A checkpoint is saved by process {who} alone: trainer.save_checkpoint is to be called by every process."
    order = [*ranks, *(rank for rank in sorted(standing) if rank not in ranks)]
    shown = [standing[rank].shown() if rank in standing else f"process {rank}: no answer\n" for rank in order]
    return ranks[0], reason, "".join(shown)
