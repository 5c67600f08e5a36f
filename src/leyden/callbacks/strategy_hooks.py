"""What a strategy of the user's hears of a run: the hooks that it overrides, told after the callbacks'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from leyden.callback import Callback
from leyden.strategies.lightning_names import RUN_HOOKS, LightningNames


class StrategyHooks(Callback):
    """Hands a run's hooks on to a strategy."""


def strategy_hooks(strategy: LightningNames) -> list[Callback]:
    """A callback that tells ``strategy`` what it overrides; none where that is nothing."""
    heard = [hook for hook in RUN_HOOKS if strategy.leyden_hears(hook)]
    if not heard:
        return []
    telling = StrategyHooks()
    for hook in heard:
        setattr(telling, hook, _told(getattr(strategy, hook)))
    return [telling]


def _told(method: Callable[..., None]) -> Callable[..., None]:
    def tell(trainer: Any, module: Any, *args: Any) -> None:
        method(*args)

    return tell
