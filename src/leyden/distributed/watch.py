"""A thread beside a verb of several processes: it says where this one is, and hears when another cannot go on.

The training thread does nothing for it: where a process is stands in attributes that its loop writes anyway.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Protocol

import torch.distributed as dist

from leyden.distributed import hang
from leyden.distributed.aborts import Abort
from leyden.distributed.asking import STORE_TAKES, Asking
from leyden.distributed.by_itself import Saves
from leyden.distributed.last_words import LastWords, hook_of, is_echo, of_error, say, say_instead
from leyden.distributed.signals import EXIT_CODE, PRESSED_AGAIN, leave_to_main_thread
from leyden.distributed.unforeseen import all_alike
from leyden.distributed.vigilance import Vigilance
from leyden.errors import NonFiniteLoss, ProcessFailed, TrainingTerminated

PERIOD = 0.5
"""Seconds between two looks."""
GRACE = 5.0
"""Seconds that a process has to leave a verb by itself once another one has failed."""
ASKED_TO_END = 25.0
"""Seconds without a move after which a process ends that SIGTERM has asked to: whoever sent it kills after 30, as a rule."""
CROSSED = 10.0
"""Seconds for which all processes have stood idle in exchanges, of which some wait in another than the rest."""
_IN_BACKWARD = 3
"""Times as long where one is in backward, which may wait for a device."""
_IDLE = 0.3
"""The share of a processor that one needs, at most, while its main thread waits."""
AS_USUAL = 4
"""Times as long as the longest pause so far may be the one in which a signal arrives."""
WORDS_TAKE = 3.0
"""Seconds that the words of whoever failed may be on their way."""
_AGREED = (TrainingTerminated, KeyboardInterrupt, NonFiniteLoss)  # raised by all, so that exchanges still work

_verbs = itertools.count()  # the same numbers on all processes, which run the same verbs


class Whereabouts(Protocol):
    """Of a process inside its verb. Asked by another thread than the one that trains."""

    def token(self) -> Any:
        """Something that is equal as long as nothing moves."""

    def place(self) -> str:
        """Epoch, step, batch and hook, in words."""

    def batch(self) -> Any:
        """The batch that is at work."""

    def unheard(self) -> int:
        """What a signal asks that was not obeyed yet: 1 to save and end the process, 2 to end the verb, 0 nothing."""

    def obeys(self) -> bool:
        """Whether a signal is obeyed that all processes hear of."""

    def hear(self, asked: int) -> None:
        """Another process, which needed not agree with this one, ends because of a signal that asked for this."""

    def obey(self, asked: int) -> None:
        """The verb has ended everywhere: raise what signals that came too late for it ask for."""


class Watch:
    """Of one process, for the time of one verb.

    Args:
        rank, world: who this is.
        where: how far it is.
        vigilance: how long a standstill is borne.
        before_exit: called before this process is ended from here.
    """

    def __init__(
        self, rank: int, world: int, where: Whereabouts, vigilance: Vigilance, before_exit: Callable[[], None] | None = None
    ) -> None:
        self.rank, self.world, self.where, self.patience = rank, world, where, vigilance.seconds
        self.before_exit = before_exit or (lambda: None)
        self.folder: str | None = None
        self.error: BaseException | None = None
        """What ends the verb here."""
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.number = next(_verbs)
        name = f"leyden/attempt {attempt}/verb {self.number}"
        self._here, self._beside = client_of(name), client_of(name)  # one for each thread: a client serves one at a time
        self._heard: LastWords | None = None  # of whoever failed first: the store may go with it
        self._lock = threading.Lock()  # of the first one, which another watching thread may use too
        self._thread = Asking(self._run, "leyden: watch")
        self._counts = threading.Thread(target=self._count, name="leyden: time", daemon=True)
        self._ran = 0.0  # seconds, without those in which this process was stopped, as others may have been
        self._answered: float | None = None  # when the store last answered the first thread, by these
        self._stop = self._thread.ending
        self._abort = Abort(3 * GRACE)
        self._last_heard: dict[int, tuple[int, float]] = {}  # the newest beat of each process, and since when there is none
        self._armed = False
        self._handles_faults = False

    # -- in the main thread
    def start(self) -> None:
        if not faulthandler.is_enabled():  # an exchange whose sizes differ aborts the process: then its stack is shown
            with suppress(Exception):  # standard error may be no file
                faulthandler.enable()
                self._handles_faults = True
        if self._beside is not None:
            self._abort.heed()
            self._counts.start()
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in (self._thread, self._counts):
            if thread.is_alive():
                thread.join(2 * PERIOD)
        if self._beside is not None:
            self._abort.ignore()
        if self._armed:
            faulthandler.cancel_dump_traceback_later()
        if self._handles_faults:
            faulthandler.disable()

    def failed(self, error: BaseException) -> bool:
        """This process cannot go on: said before anything is torn down. What only echoes another's failure is not said.

        Returns whether ``error`` is this process's alone, so that no exchange can work any more.
        """
        alone = self._is_alone_with(error)
        if self.error is not None or is_echo(error):
            return alone
        self.error = error
        place = self.where.place()
        hook = hook_of(error)
        words = of_error(self.rank, error, f"{place}, in {hook}" if hook and f"in {hook}" not in place else place, alone)
        if self.post(words) and words.kind != "signal":
            say(words.shown(self.world))
            say_instead(error, "", words.code if isinstance(error, SystemExit) else 1)
            _tell_elastic(error)
        elif words.kind == "failed":
            first = self.first()
            same = first is not None and first.reason == words.reason
            say_instead(error, f"process {self.rank} failed too: {words.reason}\n" if same else words.shown(self.world), 1)
        return alone

    def _is_alone_with(self, error: BaseException) -> bool:
        if not isinstance(error, KeyboardInterrupt) or self.where.obeys():
            return not isinstance(error, _AGREED)
        if self._here is None or error.args == (PRESSED_AGAIN,):
            return True
        with suppress(RuntimeError), self._lock:  # code of the user's raised it, perhaps to end training on all of them
            return not all_alike(self._here, "interrupted", self.world, GRACE)
        return True

    def post(self, words: LastWords) -> bool:
        """Leave ``words``; whether they are the first of all."""
        if self.folder is not None:
            with suppress(OSError), open(os.path.join(self.folder, f"words {words.rank}"), "x") as file:
                file.write(words.dumped())
        if self._here is None:
            return True
        if self._heard is not None:
            return False
        try:
            with self._lock:
                self._here.set(f"words/{words.rank}", words.dumped())
                return bool(self._here.compare_set("first", "", str(words.rank)) == str(words.rank).encode())
        except RuntimeError:  # whoever holds the store is gone
            return True

    def has_words(self, rank: int) -> bool:
        return self._here is not None and self._has(f"words/{rank}")

    def place_of(self, rank: int) -> str:
        """Where ``rank`` was last heard of."""
        with suppress(RuntimeError, ValueError):
            if self._here is not None and self._has(f"beat/{rank}"):
                with self._lock:
                    return str(json.loads(self._here.get(f"beat/{rank}"))[1])
        return ""

    def first(self) -> LastWords | None:
        """The words of whoever failed first, if anybody did."""
        if self._heard is not None:
            return self._heard
        with suppress(RuntimeError):
            if self._here is not None and self._has("first"):
                with self._lock:
                    return LastWords.read(self._here.get(f"words/{int(self._here.get('first'))}"))
        return None

    def stay_until_heard(self) -> None:
        """The first process is about to leave, as a rule with the store: the others read first what it has left there."""
        if self.rank != 0:
            return
        until = time.monotonic() + 3 * PERIOD
        others = [rank for rank in range(self.world) if rank != self.rank]
        while others and self._here is not None and time.monotonic() < until:
            others = [rank for rank in others if not (self._has(f"heard/{rank}") or self._has(f"words/{rank}"))]
            time.sleep(0.05 if others else 0.0)

    def named(self, error: BaseException) -> BaseException:
        """``error`` that ends the verb here; where it is an echo, an error that names who failed, and why."""
        if not is_echo(error) or isinstance(error, ProcessFailed):
            return error
        until = time.monotonic() + WORDS_TAKE
        before = self._beats()
        words = self.first()
        while words is None and time.monotonic() < until:
            time.sleep(0.05)
            words = self.first()
        if words is None or words.rank == self.rank:
            text = self._no_words(before)
            found = ProcessFailed(f"{text} {type(error).__name__}: {error}")
            say_instead(found, f"\nprocess {self.rank} of {self.world} cannot go on: {found}\n", 1)
            return found
        found = words.as_error()
        say_instead(found, f"process {self.rank} ends too, because {words.line.splitlines()[0]}\n", words.code)
        return found

    def _no_words(self, before: dict[int, int]) -> str:
        after = self._beats()
        if not after:
            return "The process that keeps the store of this run (the first one, or torchrun) is gone, and left no word."
        silent = [rank for rank, beat in before.items() if rank != self.rank and after.get(rank) == beat]
        if not silent:
            return "An exchange with the other processes failed, and none of them said why."
        seen = "; ".join(f"process {rank}, last heard of at {self.place_of(rank) or 'its start'}" for rank in silent)
        return f"A process of this run is gone, and left no word (killed, perhaps for lack of memory): {seen}."

    def _beats(self) -> dict[int, int]:
        found = {}
        with suppress(RuntimeError, ValueError):
            for rank in range(self.world):
                if self._here is not None and self._has(f"beat/{rank}"):
                    with self._lock:
                        found[rank] = int(json.loads(self._here.get(f"beat/{rank}"))[0])
        return found

    def _has(self, key: str) -> bool:
        with self._lock:
            try:
                return bool(self._here is not None and self._here.check([key]))
            except RuntimeError:
                self._here = None  # whoever keeps it is gone, and every further question would write a warning
                return False

    # -- in the thread beside it
    def _run(self) -> None:
        leave_to_main_thread()
        token, since, failed_at, asked_at, longest = None, self._ran, None, None, 0.0
        store, waiting = self._beside, Waiting()
        for beat in itertools.count():
            if self._stop.wait(PERIOD if beat else 0.0):
                return
            self._answered = now = self._ran
            here = self.where.token(), len(sys.modules)  # a process that still imports something moves
            if here != token:
                longest = max(longest, now - since)
                token, since = here, now
            asked_at = (asked_at or now) if self.where.unheard() else None
            if failed_at is not None:  # nothing more is asked of a store that may go at any moment
                if now - failed_at > self._grace():
                    self._end_here()
                self._arm()
                continue
            if store is None:
                continue
            try:
                saves, exchange = hang.glance()
                stands = waiting.look(exchange, now)
                store.set(f"beat/{self.rank}", json.dumps([beat, self.where.place(), saves, *exchange, stands]))
                self._pass_on_words(store)
                if store.check(["first"]):
                    failed_at = now
                    self._hear(store)
                    continue
                hurries = asked_at is not None and now - max(since, asked_at) > (
                    GRACE if self._is_one_silent(store, now) else max(ASKED_TO_END, AS_USUAL * longest)
                )
                still = self.patience is not None and now - since > self.patience
                if self._abort.begun.is_set():
                    store.set("broken", str(self.rank))
                    still = True
                if still or (hurries and not self._somebody_saves(store)) or (stands > CROSSED and self._are_crossed(store)):
                    store.compare_set("hang", "", str(self.rank))
                if store.check(["hang"]):
                    self._end_hung(store, now - since, asked_at is not None)
            except RuntimeError:
                store, failed_at = None, failed_at or now  # whoever keeps it is gone
            self._arm()

    def _count(self) -> None:
        """Counts the time, and asks nothing: a question to a store whose process is stopped has no end, and is spoken of here."""
        leave_to_main_thread()
        looked = time.monotonic()
        while not self._stop.wait(PERIOD):
            now = time.monotonic()
            self._ran, looked = self._ran + min(now - looked, PERIOD), now
            answered = self._answered
            if self.patience is None or answered is None:
                continue
            silent = self._ran - answered
            if silent > self.patience + GRACE:  # as long as the others' word is waited for
                mine = hang.stand(self.rank, self.where.place(), self.where.batch(), silent)
                reason = f"the store of this run, which it keeps, has not answered process {self.rank} for {silent:.0f} s. It is "
                reason += "stopped, or cannot be reached."
                self._heard = words = LastWords(0, "hung", reason, "", mine.shown())  # the store is asked nothing more
                self.post(words)
                hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
                shown = words.shown(self.world)
                say(shown.replace(f"process 0 of {self.world} hangs", "torchrun hangs", 1) if hosted else shown)
                self._exit(1)

    def _arm(self) -> None:
        """Where code that never lets other threads run holds this process, the interpreter shows its stack and ends it."""
        if self.patience is not None and not self._stop.is_set():
            with suppress(Exception):  # standard error may be no file
                faulthandler.dump_traceback_later(self.patience + 4 * GRACE, exit=True)
                self._armed = True

    def _grace(self) -> float:
        """Seconds in which this process has to leave the verb, now that one cannot go on: more where it is leaving already."""
        if self.error is None:
            return GRACE
        agreed = self._heard is not None and self._heard.kind == "signal"
        return (60 if agreed else 6) * GRACE  # what was saved in the background is still being finished

    def _end_here(self) -> None:
        """The verb was not left in time."""
        if self._stop.is_set():
            return
        words = self._heard
        why = "the process that holds the store is gone" if words is None else words.line
        say(f"process {self.rank} was still at {self.where.place()} {self._grace():.0f} s after, and is ended: {why}\n")
        self._exit(1 if words is None else words.code)

    def _hear(self, store: Any) -> None:
        """Who failed first, and why. Where a signal has ended the verb there, it ends here too."""
        words = LastWords.read(store.get(f"words/{int(store.get('first'))}"))
        self._heard = words
        store.set(f"heard/{self.rank}", "1")
        if words.kind == "signal" and words.rank != self.rank:
            self.where.hear(1 if words.code == EXIT_CODE else 2)

    def _pass_on_words(self, store: Any) -> None:
        """Whoever started the processes leaves word of one that has left none; who waits for it asks the store."""
        for rank in range(self.world if self.folder is not None else 0):
            with suppress(OSError, ValueError), open(os.path.join(str(self.folder), f"words {rank}")) as file:
                words = LastWords.read(file.read())
                if not store.check([f"words/{rank}"]):
                    store.set(f"words/{rank}", words.dumped())
                    store.compare_set("first", "", str(rank))

    def _somebody_saves(self, store: Any) -> bool:
        return any(saves for _, _, saves, *_ in self._all_beats(store))

    def _is_one_silent(self, store: Any, now: float) -> bool:
        """Whether a process has given no beat for :data:`GRACE` seconds in which this was asked: it is gone, as a rule."""
        for rank, (beat, *_) in enumerate(self._all_beats(store)):
            if self._last_heard.get(rank, (None, now))[0] != beat:
                self._last_heard[rank] = beat, now
        return any(now - heard > GRACE for _, heard in self._last_heard.values())

    def _all_beats(self, store: Any) -> list[Any]:
        return [json.loads(store.get(f"beat/{rank}")) for rank in range(self.world) if store.check([f"beat/{rank}"])]

    def _are_crossed(self, store: Any) -> bool:
        """Whether all have waited for so long, and not in one exchange: none of them can end."""
        beats = self._all_beats(store)
        waits = [(name, number) for *_, name, number, _ in beats]
        long = CROSSED * (_IN_BACKWARD if any(name == hang.BACKWARD for name, _ in waits) else 1)
        return len(waits) == self.world and hang.crossed(waits) and all(stands > long for *_, stands in beats)

    def _end_hung(self, store: Any, still: float, asked: bool) -> None:
        self._answered = None  # what follows takes longer than an answer
        mine = hang.stand(self.rank, self.where.place(), self.where.batch(), still)
        store.set(f"stand/{self.rank}", json.dumps(asdict(mine)))
        if int(store.get("hang")) != self.rank:
            until = time.monotonic() + 2 * GRACE
            while not store.check(["told"]) and time.monotonic() < until:
                time.sleep(0.1)
            self._leave_hung(store, int(store.get("told")) if store.check(["told"]) else 1)
        until, missing = time.monotonic() + GRACE, list(range(self.world))
        while missing and time.monotonic() < until:
            missing = [rank for rank in missing if not store.check([f"stand/{rank}"])]
            time.sleep(0.1)
        standing = {
            rank: hang.Standing(**json.loads(store.get(f"stand/{rank}"))) for rank in range(self.world) if rank not in missing
        }
        borne = self.patience is not None and still > self.patience
        seconds = self.patience if borne and self.patience else round(still)
        rank, reason, shown = hang.report(standing, self.world, seconds, store.check(["broken"]))
        if asked:
            reason = f"a signal has asked process {self.rank} to end, and {reason} So nothing can be saved."
        place = standing[rank].place if rank in standing else self.place_of(rank)
        words = LastWords(rank, "hung", reason, place, shown, EXIT_CODE if asked else 1)
        self.post(words)
        say(words.shown(self.world))
        store.set("told", str(words.code))
        self._leave_hung(store, words.code)

    def _leave_hung(self, store: Any, code: int) -> None:
        """End this process; the first one, which keeps the store, last: whoever finds it gone has nothing else to say."""
        store.set(f"leaves/{self.rank}", "1")
        until, others = time.monotonic() + GRACE, [f"leaves/{rank}" for rank in range(1, self.world)]
        while self.rank == 0 and time.monotonic() < until and not all(store.check([each]) for each in others):
            time.sleep(0.1)
        time.sleep(0.3 if self.rank == 0 else 0)
        self._exit(code)

    def _exit(self, code: int) -> None:
        self.before_exit()
        os._exit(code)


class Waiting:
    """For how long the main thread has waited in one exchange, and the process has done nothing."""

    def __init__(self) -> None:
        self.exchange: tuple[str, int] = "", 0
        self.since = self.last = time.monotonic()
        self.busy = time.process_time()

    def look(self, exchange: tuple[str, int], now: float) -> float:
        """``exchange`` is the one that it waits in, if any: for how many seconds by now."""
        busy = time.process_time()
        if not exchange[0] or exchange != self.exchange or busy - self.busy > _IDLE * max(now - self.last, 0.01):
            self.since = now
        self.exchange, self.last, self.busy = exchange, now, busy
        return now - self.since


@contextmanager
def watched(group: Any, body: Any) -> Iterator[None]:
    """Around ``body``, a verb that all processes of ``group`` run: whoever fails is named on all of them."""
    if group.watch is not None or not hasattr(body, "token"):  # inside another verb
        yield
        return
    watch = group.watch = Watch(group.rank, group.world, body, group.vigilance, group.before_exit)
    watch.folder, group.failed_by, group.saves = group.words_folder, None, Saves(group, watch.number)
    watch.start()
    try:
        yield
        asked, _ = group.agree(body.unheard(), 0.0)  # all have ended the verb
        if asked:
            body.obey(asked)
    except BaseException as error:
        watch.failed(error)
        named = watch.named(error)
        if named is error:
            watch.stay_until_heard()
            raise
        raise named from None  # what is left out says no more than that a connection was closed
    finally:
        group.watch = None
        watch.stop()


def client_of(name: str) -> Any:
    """A client of its own at the group's store. ``None`` where the group has none that can be shared."""
    try:
        found = dist.distributed_c10d.PrefixStore(name, _cloned(dist.distributed_c10d._get_default_store()))
        found.set_timeout(timedelta(seconds=STORE_TAKES))
        found.check([""])
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):
        return None
    return found


def _cloned(store: Any) -> Any:
    """A client of its own at ``store``, which sees the same. torch 2.6 has no word for that."""
    if hasattr(store, "clone"):
        return store.clone()
    shared: Any = dist
    served = store
    while isinstance(served, shared.PrefixStore):
        served = served.underlying_store
    if not isinstance(served, shared.TCPStore):
        raise NotImplementedError
    room = store.compare_set("leyden/cloned", "", os.urandom(8).hex()).decode()  # the first who says it is heard by all
    return shared.PrefixStore(room, shared.TCPStore(served.host, served.port, is_master=False, wait_for_workers=False))


def _tell_elastic(error: BaseException) -> None:
    """torchrun shows what it finds in this file."""
    if os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with suppress(Exception):
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
