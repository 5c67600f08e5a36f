"""A Trainer of one process in a script that runs in several: the first does the work, and the others learn what came of it."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import torch.distributed as dist
from torch import Tensor

from leyden.distributed.launchers.verb import verb_of
from leyden.distributed.processes import Body, Processes
from leyden.errors import LeydenError

_AS_LONG_AS_IT_TAKES = timedelta(days=365)


class Beside(Processes):
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
                    _tell({"error": _carried(error)}, waiting)
                    raise
                take_along = getattr(verb, "take_along", None)
                _tell({"result": result, "brought": take_along() if take_along is not None else None}, waiting)
                return result
            outcome = _tell(None, waiting)
            if "error" in outcome:
                raise outcome["error"]
            bring_back = getattr(verb, "bring_back", None)
            if bring_back is not None:
                bring_back(outcome["brought"], *args, **kwargs)
            return outcome["result"]

        return by_the_first  # type: ignore[return-value]  # it is called as `body` is

    def barrier(self, name: str | None = None) -> None:
        pass

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "min", "max"] = "sum") -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return tensor

    def gather_objects(self, obj: Any) -> list[Any]:
        return [obj]

    def agree(self, flags: int, clock: float) -> tuple[int, float]:
        return flags, clock

    def once(self, deed: Callable[[], Any]) -> Any:
        return deed()


def _tell(outcome: Any, group: Any) -> Any:
    box = [outcome]
    dist.broadcast_object_list(box, 0, group=group)
    dist.destroy_process_group(group)
    return box[0]


def _carried(error: BaseException) -> BaseException:
    """``error``, or what it says where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LeydenError(f"{type(error).__name__}: {error}")
    return error
