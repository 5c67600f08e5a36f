"""A Trainer of one process in a script that runs in several: the first does the work, and the others learn what came of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from leyden.distributed.launchers.verb import outcome_of, taken_over, verb_of
from leyden.distributed.processes import Alone, Body
from leyden.distributed.sharing import sendable
from leyden.errors import LeydenError

_AS_LONG_AS_IT_TAKES = timedelta(days=365)


class Beside(Alone):
    """One process, beside others that run the same script.

    Before a group of them stands nobody can be told anything, and each carries a verb out for itself, the others without
    writing files.

    Args:
        rank: which of them it is.
        processes: how many there are.
    """

    def __init__(self, rank: int, processes: int) -> None:
        self.rank, self.processes = rank, processes

    @property
    def started_by(self) -> str:
        return f"the first of {self.processes}; the others wait for it"

    def launched(self, body: Body) -> Body:
        if not dist.is_initialized():
            return body
        verb = verb_of(body)

        @functools.wraps(body, assigned=())
        def by_the_first(*args: Any, **kwargs: Any) -> Any:
            waiting = dist.new_group(backend="gloo", timeout=_AS_LONG_AS_IT_TAKES)
            if self.is_first:
                try:
                    result = verb(*args, **kwargs)
                except BaseException as error:
                    _tell({"error": sendable(error, LeydenError)}, waiting)
                    raise
                _tell(outcome_of(verb, result), waiting)
                return result
            outcome = _tell(None, waiting)
            if "error" in outcome:
                raise outcome["error"]
            return taken_over(verb, outcome, *args, **kwargs)

        return by_the_first  # type: ignore[return-value]  # it is called as `body` is

    def once(self, deed: Callable[[], Any]) -> Any:
        return deed()


def _tell(outcome: Any, group: Any) -> Any:
    box = [outcome]
    dist.broadcast_object_list(box, 0, group=group)
    dist.destroy_process_group(group)
    return box[0]
