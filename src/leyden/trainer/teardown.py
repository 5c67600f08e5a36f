"""End what a verb has started: every part gets its turn, whatever the others raise, and the first error is what is raised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from leyden.errors import NotConstructed

_log = logging.getLogger("leyden")


class Teardown:
    """Calls what has to be called in any case, and keeps the errors until :meth:`settle`.

    Args:
        failure: what the verb itself raised, if it did. Nothing that happens afterwards may hide it.
    """

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.errors: list[tuple[str, BaseException]] = []

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Call ``function``; what it raises is kept."""
        try:
            function(*args, **kwargs)
        except BaseException as error:  # Ctrl-C too: the others still have to be ended
            self.errors.append((getattr(function, "__qualname__", repr(function)), error))

    def settle(self) -> None:
        """Raise the first error, unless the verb's own is on its way; the others are logged.

        Ctrl-C and the like are always raised. What was not constructed lacks as much when it is ended: that is said once.
        """
        urgent = [error for _, error in self.errors if not isinstance(error, Exception)]
        shown = self.failure
        if urgent and (shown is None or isinstance(shown, Exception | KeyboardInterrupt)):  # a second Ctrl-C is one of its own
            shown = urgent[0]
        elif shown is None and self.errors:
            shown = self.errors[0][1]
        for name, error in self.errors:
            if error is not shown and not (isinstance(error, NotConstructed) and isinstance(shown, NotConstructed)):
                _log.error("%s raised too, while the run was being ended:", name, exc_info=error)
        if shown is not None and shown is not self.failure:
            raise shown
