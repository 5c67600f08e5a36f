"""Loaders around datasets, as a datamodule that is made of datasets gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.checked import check_count


def checked_sizes(batch_size: Any, num_workers: Any) -> tuple[int | None, int]:
    """Both as numbers; raises :class:`InvalidOption` for what a loader cannot use. Batches of ``None`` samples: single ones."""
    if batch_size is not None:
        batch_size = check_count("batch_size", batch_size, 1, "a number of samples >= 1, or None")
    return batch_size, check_count("num_workers", num_workers, 0, "a number of processes >= 0")


def loader_around(given: Any, batch_size: int | None, num_workers: int, shuffle: bool) -> Any:
    """A loader around each dataset in ``given``: one, or several in a list or a dict. A loader stays what it is."""
    if isinstance(given, DataLoader):
        return given
    if isinstance(given, Mapping):
        return {key: loader_around(value, batch_size, num_workers, shuffle) for key, value in given.items()}
    if isinstance(given, Sequence) and not isinstance(given, Dataset):
        return [loader_around(value, batch_size, num_workers, shuffle) for value in given]
    shuffle = shuffle and not isinstance(given, IterableDataset) and len(given) > 0  # of nothing, torch draws no order
    pin = torch.cuda.device_count() > 0  # asked so, CUDA is not begun, and a process can still be forked
    return DataLoader(given, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, pin_memory=pin)
