"""What a launcher does, and the one that has nothing to start."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.distributed.group import Group
    from leyden.distributed.processes import Body


class Launcher(ABC):
    """Starts the processes of a group, once, when the first verb begins."""

    @abstractmethod
    def launched(self, group: Group, body: Body) -> Body:
        """``body``, run by every process of ``group`` after each has joined it."""


class Started(Launcher):
    """All processes are there: torchrun, SLURM or another launcher started them, or one of ours did."""

    def launched(self, group: Group, body: Body) -> Body:
        @functools.wraps(body)
        def joined(*args: Any, **kwargs: Any) -> Any:
            group.begin()
            return body(*args, **kwargs)

        return joined  # type: ignore[return-value]  # it is called as `body` is
