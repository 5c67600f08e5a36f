"""What a user calls between two verbs, where no thread watches over the processes: on all of them, or on the first one alone."""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from typing import Any

from leyden.distributed.last_words import say
from leyden.distributed.processes import Processes
from leyden.distributed.sharing import sendable
from leyden.distributed.unforeseen import everyone
from leyden.errors import CheckpointWriteFailed, ProcessFailed

LONG = 10.0
"""Seconds after which it is said who is waited for."""
_LOOKS_EVERY = 0.01
_STAYS = 600.0
"""Seconds for which the first process, at its end, waits for those that may still come."""
_DONE = b"done"
_all: list[Saves] = []
"""Those of the first process that others may still come to; of the others the newest."""


class Saves:
    """Of one process, after a verb.

    Args:
        group: all processes, which have a store and a ``vigilance``.
        verb: its number, the same on all of them.
    """

    def __init__(self, group: Processes, verb: int) -> None:
        self.group, self.store = group, group.store
        self._attempt = f"leyden/attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self.name = f"{self._attempt}/after {verb}"
        self.alone = False
        """Whether what is called now may be called on the first process alone."""
        self._calls, self._of_name = 0, Counter[str]()
        self._since = 0.0
        self._said = False
        if not group.is_first:
            _note(self, only=True)

    @contextmanager
    def called(self, what: str, alone: bool) -> Iterator[None]:
        """Around ``what``, once all have come; or, where it may be ``alone``, at once.

        Raises :class:`ProcessFailed` where others do not come.
        """
        self._what, self._since, self._said = what, time.monotonic(), False
        if not alone:
            key = f"{self.name}/{what}/{self._calls}"
            self._calls += 1
            others = everyone(self.store, key, self.group.world, self._look, f"called {what}", self._patience)
            if others:
                raise ProcessFailed(f"{what} was called on process {self.group.rank}, and {others}. {self._remedy}")
        self.alone = alone
        try:
            yield
        finally:
            self.alone = False

    def first(self, deed: Callable[[], Any], name: str) -> None:
        """Do ``deed`` on the first process, which waits for nobody. The others wait for it, and raise what it raises."""
        key = f"{self.name}/{name}/{self._of_name[name]}"
        self._of_name[name] += 1
        if not self.group.is_first:
            try:
                self._wait(key)
            finally:
                self.store.add(f"{self.name}/came/{self.group.rank}", 1)
            return
        _note(self)
        self.store.set(f"{key}/begun", "1")
        try:
            deed()
        except Exception as error:
            self.store.set(key, pickle.dumps(sendable(error, CheckpointWriteFailed)))
            raise
        self.store.add(f"{self.name}/done", 1)
        self.store.set(key, _DONE)

    def _wait(self, key: str) -> None:
        while not self.store.check([key]):
            waited = time.monotonic() - self._since
            if waited > LONG and not self.store.check([f"{key}/begun"]):
                if int(self.store.add(f"{self.name}/done", 0)) >= self._of_name.total():
                    return  # under another name: the first one's counts
                self._look()
                if waited > self._patience:
                    raise ProcessFailed(
                        f"{self._what} was called on process {self.group.rank}, and the first process has not called it in "
                        f"{self._patience:g} seconds. {self._remedy}"
                    )
            time.sleep(_LOOKS_EVERY)
        said = self.store.get(key)
        if said != _DONE:
            raise pickle.loads(said)

    def part(self) -> None:
        """This process ends. The first one, as a rule with the store, waits until all others have come as often, or end too."""
        with suppress(RuntimeError):
            if not self.group.is_first:
                self.store.set(f"{self._attempt}/parted/{self.group.rank}", "1")
                return
            until, others = time.monotonic() + min(_STAYS, self._patience), list(range(1, self.group.world))
            while others and time.monotonic() < until:
                others = [rank for rank in others if not self._is_through(rank)]
                time.sleep(_LOOKS_EVERY if others else 0)

    def _is_through(self, rank: int) -> bool:
        came = int(self.store.add(f"{self.name}/came/{rank}", 0)) >= self._of_name.total()
        return came or self.store.check([f"{self._attempt}/parted/{rank}"])

    @property
    def _patience(self) -> float:
        seconds: float | None = self.group.vigilance.seconds  # type: ignore[attr-defined]  # a group's
        return float("inf") if seconds is None else seconds

    @property
    def _remedy(self) -> str:
        return f"Call {self._what} on every process, and not under `if trainer.is_global_zero`."

    def _look(self) -> str:
        if not self._said and time.monotonic() - self._since > LONG:
            self._said = True
            say(f"process {self.group.rank} waits in {self._what} until the other processes call it too. {self._remedy}\n")
        return ""


def _note(saves: Saves, only: bool = False) -> None:
    if not _all:
        atexit.register(_part)
        Finalize(None, _part, exitpriority=0)  # what multiprocessing has started ends without atexit
    if only:
        _all[:] = [saves]
    elif saves not in _all:
        _all.append(saves)


def _part() -> None:
    while _all:
        saves = _all.pop()
        if not (saves.group.is_first and hasattr(sys, "last_value")):  # an error ends this process
            saves.part()
