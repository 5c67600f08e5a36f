"""Where the loggers of a run write: each takes its place before anything is logged, the same one on all processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from leyden.distributed.processes import Processes
from leyden.loggers.base import Logger, keeps_place


def take_places(loggers: Sequence[Logger], processes: Processes, begins: Callable[[object], None]) -> None:
    """Let each logger take its place; ``begins`` is told before it does.

    The first process chooses, and one exchange tells the others, however many loggers there are.
    """
    if processes.alone:
        for logger in loggers:
            begins(logger)
            if keeps_place(logger):
                logger.leyden_start()
        return
    keeping = [logger for logger in loggers if keeps_place(logger)]
    chosen: list[Any] = []

    def choose(own: Any) -> Any:
        chosen.append(own)
        return own

    def follow(own: Any) -> Any:
        return chosen.pop(0) if chosen else own

    for logger in keeping if processes.is_first else ():
        begins(logger)
        logger.leyden_start(choose)
    chosen = processes.broadcast(chosen)
    for logger in () if processes.is_first else keeping:
        begins(logger)
        logger.leyden_start(follow)
