"""The batches after which processes talk of wishes: the same on all, whatever the order in which they hear of them."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any

import kit
import pytest
import torch.distributed as dist
from real_processes import together

from leyden.distributed.group import Group
from leyden.distributed.talks import Called
from leyden.schedule import EveryDuration
from leyden.state.course import Course, Wish
from leyden.testing import BoringModel, random_batches


class Process:
    """One of several that train in one thread: each takes a batch, or looks into the store, when the test says so."""

    def __init__(self, store: Any, world: int) -> None:
        self.batches, self.wishes, self.called = 0, False, False
        self.met: list[Any] = []
        self.waits = False
        self.way = Called(store, world, lambda: False)
        self.way._thread = SimpleNamespace(start=lambda: None, join=lambda: None)  # type: ignore[assignment]
        self.way.begin(self, lambda: self.wishes, self)

    def decide(self, batches: int, at_once: bool = False) -> None: ...

    def has_unheard(self) -> bool:
        return self.wishes

    def be_called(self, called: bool) -> None:
        self.called = called

    def notify(self, processes: list[Process]) -> None:
        self.way.notify()
        assert all(each.way.noticed for each in processes), "it goes on, and one has not heard"

    def take_batch(self, most: int) -> None:
        self.batches += 1
        if self.called and self.way.is_now(self.batches):
            self.met.append(self.batches)
            self.waits = True
        elif self.batches >= most:
            self.met.append("end")
            self.waits = True


def talked(seed: int, world: int) -> tuple[list[Any], int]:
    """The batches after which processes talked that took turns by chance, and how many proposals there were."""
    choose, most, looks = random.Random(seed), 40, itertools.count()
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch does not declare it
    processes = [Process(store, world) for _ in range(world)]

    def look(*_: Any) -> None:
        assert next(looks) < 10_000, "somebody waits for ever"
        choose.choice(processes).way._look()

    for each in processes:
        each.way._wait = look  # type: ignore[method-assign]
    speeds = [choose.choice([1, 5]) for _ in processes]
    while True:
        turn = choose.randrange(world)
        if choose.random() < 0.05:
            choose.choice(processes).wishes = True
        elif choose.random() < 0.03:
            choose.choice(processes).notify(processes)
        elif choose.random() < 0.3:
            look()
        else:
            for _ in range(speeds[turn]):
                if not processes[turn].waits:
                    processes[turn].take_batch(most)
        if all(each.waits for each in processes):
            met = [each.met for each in processes]
            assert met.count(met[0]) == world, met
            if met[0][-1] == "end":
                return met[0][:-1], max(each.way.round for each in processes)
            for each in processes:
                each.waits = each.wishes = False


@pytest.mark.parametrize("world", [2, 3])
def test_all_talk_after_the_same_batches(world: int) -> None:
    found = [talked(seed, world) for seed in range(150)]
    talks, proposals = (sum(numbers) for numbers in zip(*((len(met), rounds) for met, rounds in found), strict=True))
    assert talks > 50
    assert proposals > talks + 50, "some had passed the batch, and another was proposed"


def test_nobody_asks_for_a_notice_that_all_have_heard() -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    first, second = processes = [Process(store, 2) for _ in range(2)]
    assert not first.way.noticed
    for each in processes:
        each.way._wait = lambda looks: [each.way._look() for each in processes]  # type: ignore[method-assign]
    second.notify(processes)
    for each in processes:
        each.way._look_for_notice = lambda: pytest.fail("it is known")  # type: ignore[method-assign]
        each.way._look()
    second.notify(processes)


def wish_heard(strategy: str) -> dict[str, Any]:
    """Process 1 wishes to stop in batch 3 of very many; what each has exchanged by then and afterwards."""

    class Stopping(BoringModel):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            group: Any = dist.group.WORLD
            counts.append(group._get_sequence_number_for_group())
            if batch_idx == 3 and self.trainer.global_rank == 1:
                self.trainer.should_stop = True
            return super().training_step(batch, batch_idx)

    counts: list[int] = []
    talks: list[int] = []
    agree = Group.agree
    run = kit.trainer(devices=2, strategy=strategy, max_epochs=1, log_every_n_steps=0, limit_val_batches=0)

    def told(group: Group, flags: int, clock: float) -> Any:
        talks.append(run.leyden_fit.progress.batches)
        return agree(group, flags, clock)

    Group.agree = told  # type: ignore[method-assign]
    run.fit(Stopping(), random_batches(100_000, batch_size=1))
    steps = [later - earlier for earlier, later in itertools.pairwise(counts)]
    return {"batches": run.global_step, "steps": sorted(set(steps[1:])), "talks": talks}


def test_a_wish_is_heard_by_all_after_one_batch_and_steps_exchange_nothing_for_it() -> None:
    first, second = together(2, wish_heard, "ddp")
    assert first == second
    assert 3 < first["batches"] < 100_000
    assert first["steps"] == [1], "of gradients"
    assert first["talks"] == [0, *[first["batches"]] * 4], "before training, when it was wished, at the epoch's end, after all"


def test_the_first_processs_clock_brings_about_a_talk() -> None:
    now = 100.0
    course = Course(clock=lambda: now)
    every = EveryDuration(5.0)
    every.start(course.talks.now_for(every))
    assert not course.talks.are_needed(course)
    now = 105.0
    assert course.talks.are_needed(course)
    assert every(course.talks.now)
    assert not course.talks.are_needed(course)
    course.wish(Wish.STOP)
    assert not course.talks.are_needed(course), "alone it is heard at once"
