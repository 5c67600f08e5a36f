"""What a batch or a loader tells of its size, asked from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from leyden.data.reading import length_of
from leyden.errors import AmbiguousBatchSize, EmptyLoader, PossibleUserWarning, warn_user


def extract_batch_size(batch: Any) -> int:
    """The first dimension of the first tensor in ``batch`` (1 for one without dimensions), whatever stands around it.

    Where another tensor has another, a warning says so. ``self.log`` does not guess like this: there, such a batch is an error.
    Raises :class:`AmbiguousBatchSize` where there is no tensor.
    """
    sizes = _sizes(batch)
    size = next(sizes, None)
    if size is None:
        raise AmbiguousBatchSize(
            f"A batch of type {type(batch).__name__} without a tensor does not tell its size. Pass batch_size=."
        )
    other = next((each for each in sizes if each != size), None)
    if other is not None:
        warn_user(
            f"The batch holds tensors with first dimensions {size} and {other}; {size} is taken for its size. Pass "
            f"self.log(..., batch_size=...) where another is meant.",
            PossibleUserWarning,
        )
    return size


def _sizes(batch: Any) -> Iterator[int]:
    if isinstance(batch, Tensor):
        yield batch.shape[0] if batch.ndim else 1
    elif isinstance(batch, Mapping):
        for item in batch.values():
            yield from _sizes(item)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            yield from _sizes(getattr(batch, field.name))
    elif isinstance(batch, Iterable) and not isinstance(batch, str | bytes):
        for item in batch:
            yield from _sizes(item)


def sized_len(dataloader: object) -> int | None:
    """Batches that ``dataloader`` says it has, or ``None`` where it does not say."""
    return length_of(dataloader)


def has_iterable_dataset(dataloader: object) -> bool:
    """Whether it reads an ``IterableDataset``."""
    return isinstance(getattr(dataloader, "dataset", None), IterableDataset)


def has_len_all_ranks(
    dataloader: object, strategy: Any, allow_zero_length_dataloader_with_multiple_devices: bool = False
) -> bool:
    """Whether ``dataloader`` tells its length, on every process of ``strategy``.

    A length of 0 on all of them is a warning. Raises :class:`EmptyLoader` where some process alone has nothing, unless
    ``allow_zero_length_dataloader_with_multiple_devices``.
    """
    length = length_of(dataloader)
    if not strategy.reduce_boolean_decision(length is not None):
        return False
    assert length is not None
    name = type(dataloader).__name__
    empty_everywhere = strategy.reduce_boolean_decision(length == 0)
    if empty_everywhere:
        warn_user(f"{name} has no batch: its length is 0 on every process. Its dataset may be empty.", PossibleUserWarning)
    elif strategy.reduce_boolean_decision(length == 0, all=False) and not allow_zero_length_dataloader_with_multiple_devices:
        raise EmptyLoader(
            f"{name} has no batch on one process, and {length} here. Set "
            f"allow_zero_length_dataloader_with_multiple_devices = True on the datamodule where that is meant."
        )
    if has_iterable_dataset(dataloader):
        warn_user(
            f"The IterableDataset of {name} tells a length. With several workers each gives all of it, unless the dataset asks "
            f"torch.utils.data.get_worker_info() for its share.",
            PossibleUserWarning,
        )
    return True
