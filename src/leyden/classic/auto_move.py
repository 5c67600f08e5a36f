"""``@auto_move_data`` of 0.9 to 1.6: a method's arguments are brought to its module's device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from leyden.devices.transfer import move_data_to_device
from leyden.notices import notice

F = TypeVar("F", bound=Callable[..., Any])


def auto_move_data(fn: F) -> F:
    """Decorates a module's method, ``forward`` mostly: its arguments come to the module's device first."""
    notice("auto_move_data", "trainer.predict, or x.to(self.device)")

    @functools.wraps(fn)
    def moved(self: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = move_data_to_device((args, kwargs), self.device)
        return fn(self, *args, **kwargs)

    return moved  # type: ignore[return-value]  # it takes what the method takes
