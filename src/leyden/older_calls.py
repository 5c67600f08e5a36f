"""What older Lightnings gave a base class's method beside what it takes today: ``super().on_train_epoch_end(outputs)`` runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

OPTIMIZERS_NUMBER = ("optimizer_idx", "opt_idx", "optimizer_i")
"""What the number of the optimizer was called."""


def once_called(*order: str) -> Callable[[F], F]:
    """Mark a method as one that older callers gave ``order``, by place or by name. What it does not take today is left out.

    A call that fits today's arguments is passed on as it is.
    """

    def mark(function: F) -> F:
        today = tuple(inspect.signature(function).parameters)[1:]
        gone = frozenset(order) - frozenset(today)

        @functools.wraps(function)
        def called(self: Any, *given: Any, **named: Any) -> Any:
            if len(given) <= len(today) and gone.isdisjoint(named):
                return function(self, *given, **named)
            kept = {name: value for name, value in zip(order, given, strict=False) if name not in gone}
            return function(self, **kept, **{name: value for name, value in named.items() if name not in gone})

        return called  # type: ignore[return-value]  # it takes what the function takes, and more

    return mark


def loss_among(given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The loss in the arguments of a backward of any year, and what is left for the loss's own.

    0.7 gave the trainer first, and up to 1.9 the optimizer and its number followed.
    """
    named = {name: value for name, value in named.items() if name not in ("trainer", "optimizer", *OPTIMIZERS_NUMBER)}
    if "loss" in named:
        loss = named.pop("loss")
    else:
        if len(given) > 1 and not hasattr(given[0], "grad_fn") and hasattr(given[1], "grad_fn"):
            given = given[1:]
        loss, given = given[0], given[1:]
    if given and hasattr(given[0], "param_groups"):
        given = given[1:]
    if given and type(given[0]) is int:
        given = given[1:]
    return loss, given, named
