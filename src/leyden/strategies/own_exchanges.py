"""Exchanges that a user's strategy overrides: they are called where a run of Lightning calls them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.strategies.exchanges import Exchanges


def overridden(strategy: Exchanges, name: str) -> Callable[..., Any] | None:
    """The method ``name`` of ``strategy``, where it is not the house's."""
    return None if getattr(type(strategy), name) is getattr(Exchanges, name) else getattr(strategy, name)


def heed_exchanges(strategy: Any) -> None:
    """Let ``strategy`` hear its own ``barrier`` before and after the set-up and after each checkpoint, and its own ``reduce`` of
    what is logged with ``sync_dist=True``. Before it is used."""
    cls, own = type(strategy), vars(strategy)
    barrier = overridden(strategy, "barrier")
    if barrier is not None:

        def then_waits(name: str, word: str) -> Callable[..., Any]:
            def done(*args: Any, **kwargs: Any) -> Any:
                answer = getattr(cls, name)(strategy, *args, **kwargs)
                barrier(word)
                return answer

            return done

        for name, word in (
            ("setup_environment", "pre_setup"),
            ("model_sharded_context", "post_setup"),
            ("model_to_device", "run-stage"),
            ("save_checkpoint", "Trainer.save_checkpoint"),
        ):
            own[name] = then_waits(name, word)
    if getattr(strategy, "cluster_environment", None) is not None:  # of one device there is nothing to reduce
        strategy.leyden_peers.leyden_reduce = overridden(strategy, "reduce")


def decided(strategy: Exchanges, decision: bool, all: bool) -> bool:
    """``decision``, which is the same on all processes; a ``reduce_boolean_decision`` of the user's has the last word."""
    own = overridden(strategy, "reduce_boolean_decision")
    return decision if own is None else bool(own(decision, all=all))
