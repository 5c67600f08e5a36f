"""The random generators that a run's parts hold: their states for a checkpoint, and kept safe from what only watches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from leyden.data.carried import unmoved
from leyden.data.generators import generators_in, kept, put_states, states_of
from leyden.state.run import Run

OWNERS = ("module", "callbacks", "optimizers", "datamodule")
"""Looked through anew whenever they are asked: what they hold may change. What loaders hold is known when they are made."""


def generators_of(run: Run) -> dict[str, dict[str, Any]]:
    """Random generators by owner and path. One that several own stands with each of them."""
    callbacks = {f"{number}.{type(callback).__name__}": callback for number, callback in enumerate(run.callbacks)}
    plan = run.leyden_fit.plan
    parts: dict[str, Any] = {
        "module": run.lightning_module,
        "callbacks": callbacks,
        "optimizers": [plan.optimizers, [scheduled.scheduler for scheduled in plan.schedulers]],
        "datamodule": run.datamodule,
    }
    return {**{owner: generators_in(part) for owner, part in parts.items()}, **run.leyden_loaders.generators}


def take_generators(run: Run) -> dict[str, Any]:
    """Their states, each once: with the first of those that own it."""
    return _states_once(generators_of(run))


def _states_once(owners: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    seen: set[int] = set()
    states = {}
    for owner, found in owners.items():
        own = {path: generator for path, generator in found.items() if id(generator) not in seen}
        seen.update(map(id, own.values()))
        if own:
            states[owner] = states_of(own)
    return states


def put_generators(run: Run, states: Mapping[str, Any]) -> None:
    """Put them back, those of loaders that are not there yet once they are."""
    for owner, found in generators_of(run).items():
        if owner in OWNERS:
            put_states(found, states.get(owner, {}))
    run.leyden_loaders.restore_generators(states)


@contextmanager
def undrawn(run: Run) -> Iterator[None]:
    """Whatever is drawn inside from generators that training may use, they go on outside as if nothing had been; samplers too.

    A validation that was cut has its own states put back first.
    """
    fit = run.leyden_fit
    owners = generators_of(run)
    fit.generators_outside = _states_once(owners)
    resumed = fit.evaluation_to_resume
    with ExitStack() as stack:
        stack.enter_context(unmoved([] if run.leyden_loaders.train is None else run.leyden_loaders.train.carried))
        for owner, held in owners.items():
            if owner in (*OWNERS, "train"):
                stack.enter_context(kept(held))
        if resumed is not None and "generators" in resumed:
            put_generators(run, resumed["generators"])
        try:
            yield
        finally:
            fit.generators_outside = None
