"""How many samples a logged value stands for: as given, as the batch shows, or as the loader knows. Never a guess."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from leyden.errors import AmbiguousBatchSize, IllegalLog
from leyden.tree import tree_leaves


def given_size(name: str, given: Any) -> int:
    """The ``batch_size`` that was passed to ``self.log``. Raises :class:`IllegalLog` where it is no number of samples."""
    if isinstance(given, Tensor) and given.device.type != "cpu":
        raise IllegalLog(
            f"self.log({name!r}, batch_size=...) got a tensor on {given.device}, and reading it would wait for the device. Pass "
            f"an int: a tensor's size(0), or len()."
        )
    try:
        size = operator.index(given)
    except TypeError:
        size = -1
    if size < 0 or isinstance(given, bool):
        raise IllegalLog(
            f"self.log({name!r}, batch_size={given!r}): batch_size must be the number of samples in the batch, an int."
        )
    return size


def read_size(name: str, batch: Any, sample_count: Callable[[], int | None]) -> int:
    """The number of samples in ``batch``: the first dimension of its tensors, where they agree; else what the loader says.

    A batch of nothing but 0-dim tensors is one sample; between other tensors they say nothing. Raises
    :class:`AmbiguousBatchSize` where neither tells.
    """
    if type(batch) is tuple or type(batch) is list:  # the usual batch, without a call for each of its tensors
        size = None
        for item in batch:
            if type(item) is not Tensor or not item.shape or (size is not None and item.shape[0] != size):
                break
            size = item.shape[0]
        else:
            if size is not None:
                return size
    shapes = [leaf.shape for leaf in tree_leaves(batch, (Tensor, np.ndarray))]
    sizes = {shape[0] for shape in shapes if shape} or ({1} if shapes else set())
    if len(sizes) == 1:
        return int(sizes.pop())
    counted = sample_count()
    if counted is not None:
        return counted
    if isinstance(batch, list | tuple) and batch and all(isinstance(item, str) for item in batch):
        return len(batch)
    what = f"holds tensors with first dimensions {sorted(sizes)}" if sizes else "holds no tensor"
    raise AmbiguousBatchSize(
        f"self.log({name!r}, ...) needs the batch's size for an exact epoch mean, and the batch {what}. Pass it: "
        f"self.log({name!r}, ..., batch_size=...)."
    )
