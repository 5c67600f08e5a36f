"""Callbacks that put other weights into the module than training's own, and which of them do not go together."""

from __future__ import annotations

from leyden.callback import Callback
from leyden.errors import ConflictingOptions
from leyden.state.run import Run

AVERAGES, PRUNES = "averages the weights", "prunes them"


def deed_of(callback: object) -> str | None:
    """What ``callback`` does to the weights: its class says so in ``leyden_rewrites``."""
    deed = getattr(type(callback), "leyden_rewrites", None)
    return deed if deed in (AVERAGES, PRUNES) else None


def refuse_beside(trainer: Run, callback: Callback) -> None:
    """Raise :class:`ConflictingOptions` where another callback of ``trainer`` rewrites the weights too."""
    mine = deed_of(callback)
    for other in trainer.callbacks:
        theirs = deed_of(other)
        if other is callback or theirs is None or mine == theirs == PRUNES:
            continue
        names = f"{type(callback).__name__} and {type(other).__name__}"
        if mine == theirs:
            raise ConflictingOptions(
                f"{names} both average the weights, and each would put its average in the place of the other's. Leave one out."
            )
        raise ConflictingOptions(
            f"{names} do not go together: pruning changes which parameters the module has, and an average needs the same ones "
            f"all the time. Prune in one fit and average in another."
        )
