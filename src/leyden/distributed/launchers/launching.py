"""What ``trainer.strategy.launcher`` is: how the processes begin, for whoever has them run a function of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from leyden.distributed.group import Group

T = TypeVar("T")


class Launching:
    """How the processes of a strategy begin, in Lightning's words.

    Args:
        group: the processes.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self.cluster_environment = group.environment
        self.num_processes, self.num_nodes = group.per_node, group.nodes

    @property
    def is_interactive_compatible(self) -> bool:
        """Whether processes can be started from a notebook."""
        return self._group.launcher.is_interactive_compatible

    @property
    def procs(self) -> list[Any]:
        """The processes that were started from here, as :mod:`subprocess` or :mod:`multiprocessing` knows them."""
        return self._group.launcher.procs

    def launch(self, function: Callable[..., T], *args: Any, trainer: Any = None, **kwargs: Any) -> T:
        """``function(*args, **kwargs)`` in every process, which begin here where they have not begun yet.

        Returns what it returns here; the first process's where all are new ones. ``trainer`` is not needed.
        """
        return self._group.launched(functools.partial(function))(*args, **kwargs)

    def kill(self, signum: int) -> None:
        """Send signal ``signum`` to the processes that were started from here."""
        self._group.launcher.kill(signum)
