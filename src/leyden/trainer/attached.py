"""Whose callbacks a verb hears: the trainer's, the defaults that a module's may replace, and the module's own."""

from __future__ import annotations

from leyden.assemble import as_callbacks, with_modules_callbacks
from leyden.callback import Callback
from leyden.module import LightningModule


class AttachedCallbacks:
    """What the trainer was given, and what the newest module added.

    Args:
        given: the trainer's callbacks when it was made, its defaults included.
        asked: those of them that the user asked for.
    """

    def __init__(self, given: list[Callback], asked: list[Callback]) -> None:
        self._trainers = list(given)  # without what a module brings
        self._defaults = [callback for callback in given if not holds(asked, callback)]
        self._attached = list(given)  # as the last verb left them; what differs now was changed by the user
        self._modules: list[Callback] = []
        self._module: LightningModule | None = None

    def for_verb(self, now: list[Callback], module: LightningModule, fitting: bool) -> list[Callback]:
        """The callbacks of a verb that begins, ``now`` being what the trainer's list holds.

        The module is asked at each verb. Of what it returned before, one of the same type and state key stays, with its state.
        """
        added = [callback for callback in now if not holds(self._attached, callback)]
        removed = [callback for callback in self._attached if not holds(now, callback)]
        mine = [callback for callback in self._trainers if not holds(removed, callback)] + added
        own = as_callbacks(module.configure_callbacks(), "configure_callbacks()")
        if module is self._module:
            earlier = list(self._modules)
            own = [_earlier_one(each, earlier) for each in own]
            own = own if fitting else [callback for callback in own if not holds(removed, callback)]
        merged = with_modules_callbacks(mine, own, self._defaults)
        self._trainers, self._modules, self._module = mine, own, module
        self._attached = list(merged)
        return merged


def _earlier_one(callback: Callback, earlier: list[Callback]) -> Callback:
    """The one of ``earlier`` that ``callback`` was made in place of, which is taken out there; else ``callback``."""
    if not holds(earlier, callback):
        for number, each in enumerate(earlier):
            if type(each) is type(callback) and each.state_key == callback.state_key:
                return earlier.pop(number)
    return callback


def holds(callbacks: list[Callback], callback: Callback) -> bool:
    """Whether this very callback is in the list; equality is the user's to define."""
    return any(each is callback for each in callbacks)
