"""Loaders that a method makes: when that was, and with which random numbers, so that a resumed run has the same made again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from leyden.checkpoint.random_state import preserved_random_state, random_state, set_random_state
from leyden.data.generators import kept, put_states
from leyden.data.source import Source
from leyden.state.generators import generators_of, take_generators
from leyden.state.progress import Done, Progress
from leyden.state.run import Run
from leyden.state.stage import VAL


def load_train(run: Run) -> Source:
    """Make training's loader, now or (in a resumed run) as it was made before the cut."""
    loaders, limits = run.leyden_loaders, run.leyden_options.limits
    with as_it_was_made(run, "train"):
        source = loaders.load_train(limits)
    if loaders.first_batches is None:
        loaders.first_batches = source.stop
    return source


def load_validation(run: Run) -> Source | None:
    """Make validation's, in the same way. Nothing that its method draws is seen outside."""
    with preserved_random_state(), as_it_was_made(run, VAL.key):
        return run.leyden_loaders.load_eval(VAL, run.leyden_options.limits)


@contextmanager
def as_it_was_made(run: Run, stage: str) -> Iterator[None]:
    """What is made inside is made as in the epoch, and with the random states, of the file; else these are noted."""
    loaders = run.leyden_loaders
    if not loaders.is_made(stage):
        yield
        return
    then = loaders.to_be_made.pop(stage, None)
    if then is None:
        progress = run.leyden_fit.progress
        made = {"epoch": progress.number, "step": progress.step, "random": random_state(), "generators": take_generators(run)}
        loaders.made[stage] = made
        yield
        return
    loaders.made[stage] = then
    owners = generators_of(run)
    unmoved = kept({f"{owner}.{path}": each for owner, found in owners.items() for path, each in found.items()})
    with preserved_random_state(), unmoved, shown_at(run.leyden_fit.progress, then["epoch"], then["step"]):
        set_random_state(then["random"])
        for owner, held in owners.items():  # states that wait for loaders which are not there yet go on waiting
            put_states(held, then["generators"].get(owner, {}))
        yield


@contextmanager
def shown_at(progress: Progress, epoch: int, step: int) -> Iterator[None]:
    """Who asks for the epoch or the step inside is told these."""
    before = progress.epoch, progress.step, progress.done
    progress.epoch, progress.step, progress.done = epoch, step, Done.CHECKED
    try:
        with progress.shown_ahead(False):
            yield
    finally:
        progress.epoch, progress.step, progress.done = before


def take_made(run: Run) -> dict[str, Any]:
    """For a checkpoint: when the loaders were made, and how many batches the first one had."""
    loaders = run.leyden_loaders
    return {"first_batches": loaders.first_batches, "stages": {**loaders.to_be_made, **loaders.made}}


def put_made(run: Run, state: Mapping[str, Any]) -> None:
    run.leyden_loaders.to_be_made = dict(state["stages"])
    if run.leyden_options.behaviour.reload_every_n_epochs:  # else the one that is made now is the first
        run.leyden_loaders.first_batches = state["first_batches"]
