"""What is known of a hook beyond its arguments, said where the hook is defined: everything else derives it from there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
LogRule = tuple[tuple[str, ...], str]
"""What may be asked for of ``self.log`` in a hook, and what is the default."""

STEP: LogRule = (("step", "epoch"), "step")
"""In a training step: each batch's value, where nothing else is said."""
EVAL_STEP: LogRule = (("step", "epoch"), "epoch")
"""In a step of an evaluation: the epoch's."""
EPOCH: LogRule = (("epoch",), "epoch")
"""Outside of steps, where there is no batch whose value it could be."""

WHERE_LEGAL: dict[str, LogRule] = {}
"""Where ``self.log`` is legal, by the hook's name. What logs stands below callbacks and modules, which fill it."""


def hook(*, log: LogRule | None = None, module: bool = False) -> Callable[[F], F]:
    """Mark a method as a hook, which users may override.

    Args:
        log: what ``self.log`` may do in it; ``None``: nothing.
        module: of a callback's hook: the module has one of the same name, and is told after the callbacks.
    """

    def mark(function: F) -> F:
        function.__leyden_hook__ = module  # type: ignore[attr-defined]  # the mark is looked for in hooks_of
        if log is not None:
            WHERE_LEGAL[function.__name__] = log
        return function  # itself: an override is found by comparing, and a call costs nothing more

    return mark


def beyond_mixins(part: object, name: str, found: Any, default: Any) -> Any:
    """``found``, what ``part`` has by that name; of `hook_mixins` the next class's in line, or ``default``."""
    if not hasattr(found, "__leyden_hands_on__"):
        return found
    owners = (vars(owner).get(name, found) for owner in type(part).__mro__)
    return next((each for each in owners if not hasattr(each, "__leyden_hands_on__")), default)


@functools.lru_cache(maxsize=256)  # a module asks when it is made
def hooks_of(part: type) -> Mapping[str, bool]:
    """The hooks that a class itself defines, in the order in which it does, and whether a module shares them."""
    found = ((name, getattr(value, "__leyden_hook__", None)) for name, value in vars(part).items())
    return MappingProxyType({name: shared for name, shared in found if shared is not None})
