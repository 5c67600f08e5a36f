"""What hooks take, as Lightning asks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def is_param_in_hook_signature(
    hook_fx: Callable[..., Any], param: str, explicit: bool = False, min_args: int | None = None
) -> bool:
    """Whether ``hook_fx`` takes an argument called ``param``.

    Args:
        explicit: whether it has to stand there; else ``*args`` takes it too.
        min_args: it also does where it takes at least so many.
    """
    parameters = inspect.signature(getattr(hook_fx, "__wrapped__", hook_fx)).parameters
    named = [each for name, each in parameters.items() if name != "self"]
    kinds = {each.kind for each in named}
    return (
        param in parameters
        or (not explicit and inspect.Parameter.VAR_POSITIONAL in kinds)
        or (min_args is not None and len(named) >= min_args)
    )
