"""LambdaCallback: hooks from plain functions, for one-liners."""

from collections.abc import Callable
from typing import Any

from leyden.callback import Callback
from leyden.errors import InvalidType, UnknownName, did_you_mean
from leyden.hooks import HOOK_NAMES

_NAMES = tuple(name for name in HOOK_NAMES if name not in ("state_dict", "load_state_dict"))


class LambdaCallback(Callback):
    """Each keyword is a hook's name, its value the function to call with that hook's arguments (trainer and module first).

    A hook that is not given, or given as ``None``, costs nothing.

    Example::

        LambdaCallback(on_train_epoch_end=lambda trainer, module: print(trainer.current_epoch))

    Raises:
        UnknownName: a keyword that is no hook.
        InvalidType: a value that cannot be called.
    """

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for name, function in hooks.items():
            if name not in _NAMES:
                raise UnknownName(
                    f"LambdaCallback got an unexpected keyword argument {name!r}, which is no hook."
                    f"{did_you_mean(name, _NAMES)} Hooks are: {', '.join(_NAMES)}."
                )
            if function is None:
                continue
            if not callable(function):
                raise InvalidType(name, function, "a function that takes the hook's arguments, or None")
            setattr(self, name, function)
