"""What ``overfit_batches`` reads: the first batches of a loader, the same in every epoch and every process that goes on."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from leyden.checked import limited
from leyden.checkpoint.random_state import preserved_random_state
from leyden.data.combined import CombinedLoader
from leyden.data.generators import generators_in, kept
from leyden.data.indices import Fixed
from leyden.data.reading import length_of, reads_map_style
from leyden.errors import LeydenWarning, warn_user


def overfitted(loader: Any, limit: int | float, limit_name: str) -> Any:
    """A loader that reads the first ``limit`` batches (or that share of them) of ``loader``, which is left as it is.

    Shuffling is turned off. Any other sampler, or batch sampler, of the user's own decides what those batches are: it is asked
    once, with random numbers that are the same in every process, so that a resumed run reads the same.
    """
    plain = copy.copy(loader)
    if isinstance(loader, CombinedLoader):
        plain.flattened = [overfitted(each, limit, limit_name) for each in loader.flattened]
        return plain
    if not isinstance(loader, DataLoader) or not reads_map_style(loader):
        return loader
    plain.__dict__["_iterator"] = None
    batching: Any = loader.batch_sampler
    if type(batching) not in (BatchSampler, type(None)):
        plain.__dict__["batch_sampler"] = _first(loader, batching, limited(length_of(loader), limit, limit_name))
        return plain
    ordered: Any
    sampler = loader.sampler if batching is None else batching.sampler
    if type(sampler) is SequentialSampler:
        return loader
    if type(sampler) is RandomSampler:
        ordered = SequentialSampler(sampler.data_source)
    elif isinstance(sampler, DistributedSampler):
        ordered = copy.copy(sampler)
        ordered.shuffle = False
    else:
        batches = limited(length_of(loader), limit, limit_name)
        ordered = _first(loader, sampler, None if batches is None else batches * getattr(batching, "batch_size", 1))
    if type(sampler).__module__.startswith("torch."):
        warn_user(
            "overfit_batches reads the same batches again and again, so shuffling of the training loader is turned off.",
            LeydenWarning,
        )
    plain.__dict__["sampler"] = ordered
    if batching is not None:
        plain.__dict__["batch_sampler"] = BatchSampler(ordered, batching.batch_size, batching.drop_last)
    return plain


def _first(loader: Any, sampler: Any, count: int | None) -> Fixed:
    with preserved_random_state(), kept(generators_in(loader)):
        random.seed(0)
        np.random.seed(0)  # what the sampler may draw from
        torch.manual_seed(0)
        items: Iterator[Any] = iter(sampler)
        return Fixed(list(items if count is None else islice(items, count)), length_of(sampler))
