"""How many samples a logged value stands for: as given, as the loader knows, or as the batch shows. Never a guess."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


class SampleCount(NamedTuple):
    """What a loader knows of a batch."""

    samples: int
    sure: bool = False
    """Whether its collate function is PyTorch's, which neither drops a sample nor makes two of one."""
    most: bool = False
    """Whether it may have been fewer."""
    lone: bool = False
    """Whether it makes every batch of one sample: perhaps its dataset gives whole batches."""


def read_size(name: str, batch: Any, sample_count: Callable[[], SampleCount | None]) -> int:
    """The number of samples in ``batch``: what the loader says, else the first dimension of its tensors, where they agree.

    A batch of nothing but 0-dim tensors is one sample; between other tensors they say nothing. Raises
    :class:`AmbiguousBatchSize` where neither tells, or the loader is not sure and its number is nowhere in the batch: a collate
    function may have dropped samples, or joined them.
    """
    counted = sample_count()
    if counted is not None and counted.sure:
        return counted.samples
    said = None if counted is None else counted.samples
    if type(batch) is tuple or type(batch) is list:  # the usual batch, without a call for each of its tensors
        size = None
        try:
            for item in batch:
                if type(item) is not Tensor or not item.shape or (size is not None and item.shape[0] != size):
                    break
                size = item.shape[0]
            else:
                if size is not None and said in (None, size):
                    return size
        except RuntimeError:
            size = None  # a nested tensor has no shape
    shapes = [_shape(leaf) for leaf in tree_leaves(batch, (Tensor, np.ndarray))]
    sizes = {shape[0] for shape in shapes if shape} or ({1} if shapes else set())
    if counted is not None and len(sizes) != 1 and not counted.most:
        return counted.samples
    if len(sizes) == 1:
        size = int(sizes.pop())
        if said in (None, size):
            return size
        assert counted is not None
        is_in_it = any(said in shape for shape in shapes) or _has_length(batch, counted.samples)
        if counted.most and size < counted.samples and not is_in_it:
            return size
        if counted.lone and not (all(1 in shape for shape in shapes) or _has_length(batch, 1)):
            return size
        if not counted.lone and not counted.most and is_in_it:
            return counted.samples
        sizes = {size}
    if isinstance(batch, list | tuple) and batch and all(isinstance(item, str) for item in batch):
        return len(batch)
    what = f"holds tensors with first dimensions {sorted(sizes)}" if sizes else "holds no tensor"
    if said is not None:
        what += f", where its loader made it of {'at most ' if counted is not None and counted.most else ''}{said}"
    raise AmbiguousBatchSize(
        f"self.log({name!r}, ...) needs the batch's size for an exact epoch mean, and the batch {what}. Pass it: "
        f"self.log({name!r}, ..., batch_size=...)."
    )


def _shape(leaf: Any) -> tuple[int, ...]:
    if isinstance(leaf, Tensor) and leaf.is_nested:
        return (leaf.size(0),)  # the others are each sample's own
    return tuple(leaf.shape)


def _has_length(batch: Any, length: int) -> bool:
    """Whether a list in ``batch`` has an item for each of so many samples."""
    if isinstance(batch, Mapping):
        return any(_has_length(item, length) for item in batch.values())
    if not isinstance(batch, list | tuple):
        return False
    return len(batch) == length or any(_has_length(item, length) for item in batch)
