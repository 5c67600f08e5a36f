"""The batch that a loop is at, and what came of it so far: a checkpoint that is taken meanwhile holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from leyden.tree import tree_map


@dataclass(slots=True)
class Flight:
    """Written by the loops, batch after batch; nothing is copied until somebody saves."""

    batch: Any = None
    index: int = 0
    is_last: bool = False
    outputs: Any = None
    """What the step returned; after it, what the hooks are told."""
    loss: Tensor | None = None
    """The loss with its graph, until backward, where somebody could save before it."""

    def let_go(self) -> None:
        """No batch is kept longer than its verb runs."""
        self.batch = self.outputs = self.loss = None


class Passes(list[Any]):
    """What several passes over one batch returned, in their order."""


def detached(outputs: Any) -> Any:
    """What ``on_train_batch_end`` gets: a dict with ``loss``, everything detached, the values as the step returned them.

    Of several passes, a list of such dicts.
    """
    if outputs is None:
        return {}
    if isinstance(outputs, Tensor):
        return {"loss": outputs.detach()}
    if isinstance(outputs, Passes):
        return [detached(each) for each in outputs]
    if isinstance(outputs, Mapping):
        return {key: tree_map(value, Tensor, Tensor.detach) for key, value in outputs.items()}
    return {"loss": outputs}
