"""The trainer's callbacks while their ``setup`` is told, in which the list may change."""

from __future__ import annotations

from collections.abc import Iterator

from leyden.callback import Callback
from leyden.state.run import Run


def each_of(run: Run) -> Iterator[Callback]:
    """Each callback of ``run`` once, those included who join meanwhile, and without those who leave before their turn."""
    told: list[Callback] = []
    while (callback := next((each for each in run.callbacks if not any(each is one for one in told)), None)) is not None:
        told.append(callback)
        yield callback
