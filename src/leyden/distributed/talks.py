"""At which batch the processes talk about what any of them wishes: one that all know, and none where nobody wishes anything.

And what one of them does that the others could not foresee, which they hear of before it goes on.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, final

import torch.distributed as dist

from leyden.distributed.asking import Asking
from leyden.distributed.processes import Processes
from leyden.distributed.signals import leave_to_main_thread
from leyden.distributed.unforeseen import all_alike
from leyden.schedule import EveryDuration

PER_SECOND = 4
"""Exchanges a second where the processes have no store: a wish is heard within a quarter of a second."""
TICK = 0.1
"""Seconds between two looks into the store; more where very many processes look into the same one."""
_OF_EACH = 0.0005
_HURRIES = 0.002  # while somebody waits
_ASKS_EVERY = 50  # such looks, whether another process has failed
ALIKE_WITHIN = 5.0
"""Seconds for which one that leaves an epoch waits to hear whether all do so at this batch."""
_AHEAD = 3  # ticks in which all have heard of a batch that is proposed, as a rule


class Wishing(Protocol):
    """Who wishes, on one process."""

    def decide(self, batches: int, at_once: bool = False) -> None:
        """Talk where it is time to, or ``at_once``."""

    def has_unheard(self) -> bool:
        """Whether there is something to talk about. Asked by another thread than the one that trains, as what follows."""

    def be_called(self, called: bool) -> None:
        """From now on ask after each batch whether it is the one; or (``False``) do not."""


class Counts(Protocol):
    """How far training is."""

    batches: int


class Talks:
    """What a process hears of the others' wishes, and of the first one's clock: exchanges, after batches that all know.

    Args:
        processes: all of them.
        clock: tells seconds.
    """

    def __init__(self, processes: Processes, clock: Callable[[], float]) -> None:
        self.processes, self.clock = processes, clock
        self._heard = 0.0
        self._way: Way = Paced()
        self._by_clock: dict[int, EveryDuration] = {}
        self._alike = ""  # begins the names of what all may do at one batch
        self._unlike_in: int | None = None  # the epoch in which some did so and some not

    @property
    def now(self) -> float:
        """Seconds on the one clock that loops and callbacks see: the first process's, the same on all."""
        return self.clock() if self.processes.alone else self._heard

    def now_for(self, every: EveryDuration | None) -> float:
        """:attr:`now`, for what is asked after each batch: all talk once the time for it has come."""
        if every is not None:
            self._by_clock[id(every)] = every
        return self.now

    @property
    def due(self) -> float:
        """The count of batches after which :meth:`said` has to be asked, whoever wishes what."""
        return float("inf") if self.processes.alone else self._way.due

    def said(self, batches: int, wishes: int, at_once: bool = False) -> int:
        """What anybody wishes, if all talk now that ``batches`` are finished (or ``at_once``); else 0."""
        if not (at_once or self._way.is_now(batches)):
            return 0
        said, self._heard = self.processes.agree(wishes, self.clock())
        self._way.held(batches, self._heard)
        return said

    def all_do_so(self, batches: int, epoch: int) -> bool:
        """Whether all processes leave ``epoch`` after ``batches``, as this one wishes: then they need not talk about it.

        Where some do not, they are in that batch by now, and it is not asked again in this epoch.
        """
        store = self.processes.store
        if self.processes.alone or store is None or self._unlike_in == epoch:
            return self.processes.alone
        alike = all_alike(store, f"{self._alike}/{epoch}/{batches}", self.processes.world, ALIKE_WITHIN)
        self._unlike_in = None if alike else epoch
        return alike

    @property
    def noticed(self) -> bool:
        """Whether a process has done what calls for a look into the store from then on, see :meth:`notify`. Asks nobody."""
        return self._way.noticed

    def notify(self) -> None:
        """This process does what the others have to look for in the store. Returns once :attr:`noticed` holds on all."""
        if not self.processes.alone:
            self._way.notify()

    def are_needed(self, wishing: Wishing) -> bool:
        """Whether there is something to talk about: a wish, or the time for something has come."""
        over = self.processes.is_first and any(each.is_over(self.clock()) for each in list(self._by_clock.values()))
        return over or wishing.has_unheard()

    @contextmanager
    def along(self, wishing: Wishing, progress: Counts) -> Iterator[None]:
        """Training, on every process: what is wished from here on is heard, and what was before."""
        if self.processes.alone:
            yield
            return
        store, self._alike = self.processes.talks_beside(), self.processes.next_name("leyden/alike")
        self._way = Paced() if store is None else Called(store, self.processes.world, self.processes.has_failed)
        wishing.decide(progress.batches, at_once=True)
        self._way.begin(wishing, lambda: self.are_needed(wishing), progress)
        try:
            yield
        finally:
            self._way.end()


class Way(ABC):
    """How the processes find the batches after which they talk. One for each training."""

    due = float("inf")
    """The count of batches after which :meth:`is_now` is to be asked, whether called or not."""
    noticed = True
    """As :attr:`Talks.noticed`; true where nobody could be told of it."""

    @abstractmethod
    def is_now(self, batches: int) -> bool:
        """Whether all talk now that ``batches`` are finished."""

    def held(self, batches: int, now: float) -> None:  # noqa: B027  # who is called needs not know it
        """All have talked, when the first one's clock said ``now``."""

    def notify(self) -> None:  # noqa: B027  # as above
        """As :meth:`Talks.notify`."""

    def begin(self, wishing: Wishing, needed: Callable[[], bool], progress: Counts) -> None:  # noqa: B027  # as above
        """Training begins; ``needed`` says whether there is something to talk about."""

    def end(self) -> None:  # noqa: B027  # as above
        """It is over: all have passed the talk at the end of its last epoch."""


@final
class Paced(Way):
    """About four a second, whether somebody wishes something or not: for processes that have no store.

    How many batches that is they tell by the first one's clock, which each exchange brings.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self._held: tuple[int, float] | None = None

    def is_now(self, batches: int) -> bool:
        return batches >= self.due

    def held(self, batches: int, now: float) -> None:
        pace = 0.0
        if self._held is not None:
            before, then = self._held
            pace = (batches - before) / (now - then) if now > then else 0.0
        self._held = batches, now
        self.due = batches + max(1, int(pace / PER_SECOND))


@final
class Called(Way):
    """Whoever wishes something proposes in the store of the process group a batch that is some way ahead.

    A thread beside the training one answers for each process: "no" where that batch is over already, and else "yes", which
    is said after the training thread has been called to look. Once all have answered, all know the same: they talk at that
    batch, or, as one had passed it, not, and another is proposed. Until somebody wishes something nothing is exchanged, and
    the training thread does nothing.

    The same thread looks whether a process has given notice, until one has: the training thread of that one waits for the
    answers of all.

    Args:
        store: a client of its own at the group's store, under a name of this training's.
        world: how many processes there are.
        failed: whether another process has failed, and is not waited for.
    """

    def __init__(self, store: Any, world: int, failed: Callable[[], bool]) -> None:
        self.store, self.world, self.failed = store, world, failed
        self.tick = max(TICK, world * _OF_EACH)
        self.plan: tuple[int, bool] | None = None
        """The batch that is proposed, and whether all have said yes. One attribute, since two threads change it."""
        self.round = 0  # of proposals
        self.noticed = False
        self._notifies = False  # the training thread waits for that
        self._all_noticed = threading.Event()
        self._refused = 0  # how many before this one were
        self._hurry = threading.Event()  # or stop
        self._stopped = False
        self._broken: BaseException | None = None
        self._thread = Asking(self._run, "leyden: talks")

    def begin(self, wishing: Wishing, needed: Callable[[], bool], progress: Counts) -> None:
        self._wishing, self._needed, self._progress, self._seen = wishing, needed, progress, progress.batches
        self._thread.start()

    def end(self) -> None:
        self._stopped = True
        self._hurry.set()
        self._thread.join()
        self._wishing.be_called(False)

    def is_now(self, batches: int) -> bool:
        looks = 0
        while True:
            plan = self.plan
            if plan is None or batches < plan[0]:
                return False
            if plan[1]:
                break
            looks += 1
            self._wait(looks)
        self._refused = 0
        self._wishing.be_called(False)
        self.round += 1
        self.plan = None  # last: until then the thread does nothing
        self._hurry.clear()
        return True

    def notify(self) -> None:
        looks, self._notifies = 0, True
        while not self._all_noticed.is_set():
            looks += 1
            self._wait(looks)
        if self.plan is None:
            self._hurry.clear()

    def _wait(self, looks: int) -> None:
        """Some process has yet to answer."""
        self._hurry.set()
        time.sleep(_HURRIES)
        if self._broken is not None:
            raise self._broken
        if looks % _ASKS_EVERY == 0 and self.failed():
            raise dist.DistError("Another process has failed, and does not say whether to talk.")

    # -- in the thread beside
    def _run(self) -> None:
        leave_to_main_thread()
        try:
            while not self._stopped:
                self._look()
                if self._hurry.wait(self.tick) and not self._stopped:
                    time.sleep(_HURRIES)
        except RuntimeError as error:  # whoever keeps the store is gone
            self._broken = error

    def _look_for_notice(self) -> None:
        if self._notifies:
            self.store.set("notice", "1")
        if not self.noticed and self.store.check(["notice"]):
            self.noticed = True  # before the answer
            self.store.add("notice/answers", 1)
        if self._notifies and int(self.store.add("notice/answers", 0)) == self.world:
            self._all_noticed.set()

    def _look(self) -> None:
        if not (self._all_noticed.is_set() if self._notifies else self.noticed):
            self._look_for_notice()
        batches = self._progress.batches
        moved, self._seen = batches - self._seen, batches
        plan = self.plan
        if plan is None:
            plan = self._heard(batches, moved)
        if plan is None or plan[1] or int(self.store.add(f"{self.round}/answers", 0)) < self.world:
            return
        if not self.store.check([f"{self.round}/late"]):
            self.plan = plan[0], True
            return
        self._wishing.be_called(False)
        self._refused += 1
        self.round += 1
        self.plan = None
        self._hurry.clear()

    def _heard(self, batches: int, moved: int) -> tuple[int, bool] | None:
        """The proposal of this round, answered here; ``None`` where there is nothing to talk about."""
        key = f"{self.round}"
        if self.store.check([key]):
            at = int(self.store.get(key))
        elif self._needed():
            ahead = max(1, _AHEAD * moved) << min(self._refused, 20)
            at = int(self.store.compare_set(key, "", str(batches + ahead)))  # the first who says it is heard
        else:
            return None
        self.plan = plan = at, False
        self._wishing.be_called(True)  # from here on the training thread looks
        if self._progress.batches >= at:
            self.store.add(f"{key}/late", 1)
        self.store.add(f"{key}/answers", 1)
        return plan
