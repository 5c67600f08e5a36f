"""The trainer's callbacks, whose list may change while they are told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from leyden.callback import Callback
from leyden.module import LightningModule
from leyden.state.run import Run


def each_of(run: Run) -> Iterator[Callback]:
    """Each callback of ``run`` once, those included who join meanwhile, and without those who leave before their turn."""
    told: list[Callback] = []
    while (callback := next((each for each in run.callbacks if not any(each is one for one in told)), None)) is not None:
        told.append(callback)
        yield callback


def lent_log(callbacks: Iterable[Callback], module: LightningModule) -> Iterator[tuple[dict[str, Any], str]]:
    """Give every callback the module's ``log`` and ``log_dict`` for a verb, where it has none. Yields what is to go."""
    for callback in callbacks:
        for name in ("log", "log_dict"):
            if not hasattr(callback, name):
                # the class's: an attribute of the module may hide it
                vars(callback)[name] = getattr(type(module), name).__get__(module)
                yield vars(callback), name
