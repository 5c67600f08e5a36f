"""The one place where a run's course is decided: anybody wishes, on any process; loops obey what all have agreed on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from enum import IntFlag
from typing import Any

from leyden.distributed.processes import Alone, Processes
from leyden.distributed.talks import Talks
from leyden.errors import TrainingTerminated


class Wish(IntFlag):
    """What somebody may ask of the loops."""

    STOP = 1  # end training after a batch
    TERMINATE = 4  # SIGTERM or SIGUSR1: save, and end the process
    INTERRUPT = 8  # Ctrl-C: save, and give control back
    NOT_FINITE = 16  # the training loss is NaN or infinite
    SKIP = 32  # leave out the rest of the epoch
    TALK = 64  # a batch is proposed after which all processes talk about their wishes


_SIGNALS, _TALK = int(Wish.TERMINATE | Wish.INTERRUPT), int(Wish.TALK)


class Course:
    """What is wished, and what was agreed.

    Alone, a wish is agreed on as soon as it is there. Among several processes wishes are exchanged once somebody has one, after
    a batch that all know beforehand, and obeyed from then on: "after this batch" becomes "within half a second".
    """

    def __init__(self, processes: Processes | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.processes = processes or Alone()
        self.alone = self.processes.alone
        self.agreed: int = 0
        """The wishes that hold, as the number of a :class:`Wish`. Plain, because loops ask at every batch."""
        self.talks = Talks(self.processes, clock)
        self.reason: str | None = None
        self.was_terminated = False  # SIGTERM or SIGUSR1 arrived in this verb
        self.signal: int | None = None  # the number of the signal that arrived here, until it is obeyed
        self.at_safe_place = False  # a signal was obeyed between two batches: the state can be saved
        self._mine = 0

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a run is a run at rest: alone, with what was agreed."""
        return {**self.__dict__, "processes": Alone(), "alone": True, "talks": Talks(Alone(), time.monotonic)}

    def wish(self, what: int, because: str | None = None) -> None:
        """Ask for something. May be called from a signal handler."""
        asked = int(what)
        self._mine |= asked  # a signal's handler comes at a call, and so not in here
        if because is not None:
            self.reason = because
        if self.alone:
            self.agreed = self._mine

    def withdraw(self, what: int) -> None:
        """Ask no more; what was agreed on here is forgotten too."""
        rest = ~int(what)
        self._mine &= rest
        self.agreed &= rest

    def wishes(self, what: int) -> bool:
        """Whether ``what`` is wished here or agreed on."""
        return bool((self._mine | self.agreed) & int(what))

    def decide(self, batches: int, at_once: bool = False) -> None:
        """Exchange wishes where it is time to (or ``at_once``), ``batches`` being finished."""
        if not self.alone:
            said = self.talks.said(batches, self._mine, at_once)
            self.agreed |= said

    def has_unheard(self) -> bool:
        """Whether there is something to talk about."""
        return bool(self._mine & ~self.agreed)

    def be_called(self, called: bool) -> None:
        """Loops are to ask after each batch whether the processes talk now, or not any more. Called by another thread."""
        self.agreed = self.agreed | _TALK if called else self.agreed & ~_TALK

    # -- signals
    def note_signal(self, number: int, alone: bool = False) -> None:
        """A signal arrived: to be obeyed once the batch is done. ``alone``: by this process, whatever the others do."""
        self.signal = number
        self.was_terminated = number != signal.SIGINT
        self.wish(Wish.INTERRUPT if number == signal.SIGINT else Wish.TERMINATE)
        self.agreed |= self._mine & _SIGNALS if alone else 0

    def forget_signals(self) -> None:
        """A verb begins."""
        self.withdraw(_SIGNALS)
        self.signal, self.was_terminated, self.at_safe_place = None, False, False

    @property
    def is_signalled(self) -> bool:
        """Whether all have agreed to end because of a signal."""
        return bool(self.agreed & _SIGNALS)

    def raise_if_signalled(self, ended: str) -> None:
        """Raise :class:`KeyboardInterrupt`, or :class:`TrainingTerminated`, which says what ``ended``, if a signal arrived."""
        found = self.agreed & _SIGNALS
        if not found:
            return
        number, self.signal = self.signal, None
        self.withdraw(_SIGNALS)
        self.at_safe_place = True
        if found & Wish.INTERRUPT:
            raise KeyboardInterrupt
        name = "a signal to another process" if number is None else signal.Signals(number).name
        raise TrainingTerminated(f"{name} arrived: {ended}.", number)
