"""A Trainer of one process in a script that runs in several: the first does the work, and the others learn what came of it."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from leyden.distributed.asking import Asking
from leyden.distributed.last_words import say
from leyden.distributed.launchers.verb import Verb, outcome_of, taken_over, verb_of
from leyden.distributed.processes import Alone, Body
from leyden.distributed.sharing import on_cpu, sendable
from leyden.distributed.signals import noted
from leyden.distributed.watch import client_of
from leyden.errors import LeydenError

_AS_LONG_AS_IT_TAKES = timedelta(days=365)
_LOOKS_EVERY = 0.25
"""Seconds between two looks for signals to others."""
_works = itertools.count()  # the same on all processes, which run the same script


class Beside(Alone):
    """One process, beside others that run the same script.

    Before a group of them stands nobody can be told anything, and each carries a verb out for itself, the others without
    writing files.

    Args:
        rank: which of them it is.
        processes: how many there are.
    """

    def __init__(self, rank: int, processes: int) -> None:
        self.rank, self.processes = rank, processes

    @property
    def started_by(self) -> str:
        return f"the first of {self.processes}; the others wait for it"

    def launched(self, body: Body) -> Body:
        if not dist.is_initialized():
            return body
        verb = verb_of(body)

        @functools.wraps(body, assigned=())
        def by_the_first(*args: Any, **kwargs: Any) -> Any:
            asked = Asked(client_of(f"leyden/beside/{next(_works)}"))
            if self.is_first:
                waiting = _waiting()
                try:
                    with asked.heeded():
                        result = verb(*args, **kwargs)
                except BaseException as error:
                    status = verb.trainer.state.status if isinstance(verb, Verb) else None
                    _tell({"error": sendable(error, LeydenError), "status": status}, waiting)
                    raise
                _tell(outcome_of(verb, result), waiting)
                return result
            with noted(lambda number: asked.pass_on(number, self.rank), interrupts=True):  # before the first one can begin
                outcome = _tell(None, _waiting())
            if "error" in outcome:
                if isinstance(verb, Verb):
                    verb.trainer.state.status = outcome["status"]
                raise outcome["error"]
            return taken_over(verb, outcome, *args, **kwargs)

        return by_the_first  # type: ignore[return-value]  # it is called as `body` is

    def once(self, deed: Callable[[], Any]) -> Any:
        return deed()


def _waiting() -> Any:
    """The group in which all wait for the first one; it stands once all are here."""
    return dist.new_group(backend="gloo", timeout=_AS_LONG_AS_IT_TAKES)


class Asked:
    """Signals to processes that wait: the first one, which works for all, gets them, and the others end as it does.

    Args:
        store: a client of its own at the group's store.
    """

    def __init__(self, store: Any) -> None:
        self.store = store

    def pass_on(self, number: int, rank: int) -> None:
        """Signal ``number`` has arrived in process ``rank``, which waits."""
        name = signal.Signals(number).name
        if self.store is not None:
            with suppress(RuntimeError):  # the first one is gone, and this one hears of it
                self.store.set("asked", str(number))
        say(f"{name} arrived in process {rank}, which waits for the first: that one is asked to end what it does.\n")

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """In the first process: what has arrived in another arrives here."""

        def look() -> None:
            with suppress(RuntimeError, AttributeError):
                while True:
                    last = thread.ending.wait(_LOOKS_EVERY)
                    if self.store.check(["asked"]):
                        os.kill(os.getpid(), int(self.store.get("asked")))
                        return
                    if last:
                        return

        thread = Asking(look, "leyden: beside")
        thread.start()
        try:
            yield
        finally:
            thread.ending.set()
            thread.join()


def _tell(outcome: Any, group: Any) -> Any:
    box = [on_cpu(outcome)]  # on a GPU of that number the others would begin CUDA, if they have one
    dist.broadcast_object_list(box, 0, group=group)
    dist.destroy_process_group(group)
    _left[:] = [group]
    return box[0]


_left: list[Any] = []
"""The newest group that was left. torch 2.6 hangs where one goes whose threads have not let go of the last exchange yet."""
