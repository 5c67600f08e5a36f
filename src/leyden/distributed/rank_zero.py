"""Do, print, log or warn on the first process only."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from leyden.distributed.rank_elsewhere import tell_elsewhere, tell_elsewhere_once_loaded
from leyden.errors import LeydenWarning, warn_user

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")

_log = logging.getLogger("leyden")
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def rank_of_environment() -> int | None:
    """The rank that whoever started this process has given it; ``None`` where nobody has."""
    numbers = (os.environ.get(name, "") for name in _RANK_VARIABLES)
    return next((int(number) for number in numbers if number.isdecimal()), None)


class RankZeroOnly:
    """``@rank_zero_only``: the function runs on the process of rank 0; on the others the call returns ``default``."""

    def __init__(self) -> None:
        self._rank: int | None = None

    @property
    def rank(self) -> int:
        """This process's rank among all, from 0. Read from the environment until it is set."""
        return self._rank if self._rank is not None else rank_of_environment() or 0

    @rank.setter
    def rank(self, rank: int | None) -> None:
        self._rank = rank
        tell_elsewhere(self, anew=True)

    @overload
    def __call__(self, fn: Callable[P, T]) -> Callable[P, T | None]: ...
    @overload
    def __call__(self, fn: Callable[P, T], default: D) -> Callable[P, T | D]: ...
    def __call__(self, fn: Callable[P, T], default: Any = None) -> Callable[P, Any]:
        @functools.wraps(fn)
        def on_rank_zero(*args: P.args, **kwargs: P.kwargs) -> Any:
            return fn(*args, **kwargs) if self.rank == 0 else default

        return on_rank_zero


rank_zero_only = RankZeroOnly()
"""The decorator. Its attribute ``rank`` may be read and set."""
tell_elsewhere_once_loaded(rank_zero_only)


def print_if_open(*args: Any, **kwargs: Any) -> None:
    """:func:`print`. A standard output that is closed or full is no reason to end a run."""
    try:
        print(*args, **kwargs)
    except OSError:
        pass
    except ValueError as error:
        if "closed file" not in str(error):
            raise


def rank_zero_print(*args: Any, **kwargs: Any) -> None:
    """:func:`print_if_open`, on rank 0."""
    if rank_zero_only.rank == 0:
        print_if_open(*args, **kwargs)


def rank_zero_debug(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """Log a message of level DEBUG to the logger ``leyden``, on rank 0. ``stacklevel`` as for :func:`rank_zero_warn`."""
    if rank_zero_only.rank == 0:
        _log.debug(*args, stacklevel=max(stacklevel - 2, 1), **kwargs)


def rank_zero_info(*args: Any, stacklevel: int = 4, **kwargs: Any) -> None:
    """Log a message of level INFO to the logger ``leyden``, on rank 0.

    Where nobody has set up logging it goes to the standard error, so that what was asked for (``verbose=True``) is seen;
    ``logging.getLogger("leyden").setLevel("WARNING")`` keeps it back.
    """
    if rank_zero_only.rank == 0:
        log_info(*args, stacklevel=max(stacklevel - 1, 1), **kwargs)


def log_info(message: object, *args: Any, stacklevel: int = 2, **kwargs: Any) -> None:
    """:func:`rank_zero_info` on every rank."""
    if _log.hasHandlers() or _log.level > logging.INFO:
        _log.info(message, *args, stacklevel=stacklevel, **kwargs)
    else:
        print(str(message) % args if args else message, file=sys.stderr)


def rank_zero_warn(message: str | Warning, stacklevel: int = 4, category: type[Warning] = LeydenWarning, **kwargs: Any) -> None:
    """Warn on rank 0. With ``stacklevel=4`` the warning points at the caller's line, as in Lightning; 5 is one further out."""
    if rank_zero_only.rank == 0:
        # Lightning's stack levels count two more frames of its own.
        warnings.warn(message, category, stacklevel=max(stacklevel - 2, 1), **kwargs)


def rank_zero_warn_user(message: str, category: type[Warning] = LeydenWarning) -> None:
    """Warn on rank 0, pointing at the user's line: what the house itself warns by. :func:`rank_zero_warn` is for users' code."""
    if rank_zero_only.rank == 0:
        warn_user(message, category)


class LightningDeprecationWarning(DeprecationWarning):
    """Something is going away: what :func:`rank_zero_deprecation` warns by."""


def rank_zero_deprecation(
    message: str | Warning, stacklevel: int = 5, category: type[Warning] = LightningDeprecationWarning, **kwargs: Any
) -> None:
    """Say on rank 0 that something is going away. With ``stacklevel=5`` it points at the caller of the caller."""
    if rank_zero_only.rank == 0:
        warnings.warn(message, category, stacklevel=max(stacklevel - 2, 1), **kwargs)


def rank_prefixed_message(message: str, rank: int | None) -> str:
    """``message`` with the rank before it; as it is without one."""
    return message if rank is None else f"[rank: {rank}] {message}"


class WarningCache(set[str]):
    """Says each message once, on rank 0: the set of those that were said."""

    def warn(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """:func:`rank_zero_warn`, the first time."""
        if self._is_new(message):
            rank_zero_warn(message, stacklevel=stacklevel, **kwargs)

    def deprecation(self, message: str, stacklevel: int = 6, **kwargs: Any) -> None:
        """:func:`rank_zero_deprecation`, the first time."""
        if self._is_new(message):
            rank_zero_deprecation(message, stacklevel=stacklevel, **kwargs)

    def info(self, message: str, stacklevel: int = 5, **kwargs: Any) -> None:
        """:func:`rank_zero_info`, the first time."""
        if self._is_new(message):
            rank_zero_info(message, stacklevel=stacklevel, **kwargs)

    def _is_new(self, message: str) -> bool:
        if message in self:
            return False
        self.add(message)
        return True
