"""Loader settings come from the command: whether a cut epoch can go on with them, and in which batches."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler, DataLoader, Subset, SubsetRandomSampler

from leyden.data.reading import length_of, reads_map_style
from leyden.data.share import ALONE, Share
from leyden.errors import CheckpointMismatch, warn_user

Stretches = tuple[tuple[int, int, int], ...]
"""Of a pass whose batch size or number of processes was changed: so many batches of each process, each of so many samples, and
how many processes there were, before the rest."""


def settings_of(loader: Any) -> dict[str, Any]:
    """What decides which samples a batch of ``loader`` holds, as far as can be told, in the words of a message."""
    if not isinstance(loader, DataLoader):
        return {"loader": type(loader).__name__, "batches": length_of(loader)}
    found: dict[str, Any] = {"loader": "DataLoader"}
    if not reads_map_style(loader):
        return {**found, "dataset": type(loader.dataset).__name__, "batch_size": loader.batch_size}
    batching: Any = loader.batch_sampler
    found["samples"] = length_of(loader.dataset)
    if type(batching) not in (BatchSampler, type(None)):
        return {**found, "batch_sampler": type(batching).__name__, "batches": length_of(batching)}
    sampler = loader.sampler if batching is None else batching.sampler
    drawn = length_of(sampler)
    return {
        **found,
        "batch_size": None if batching is None else batching.batch_size,
        "sampler": type(sampler).__name__,
        "replacement": getattr(sampler, "replacement", False),
        "drawn": None if drawn == found["samples"] else drawn,
        "generator": None if getattr(sampler, "generator", None) is None else "its own",
        "subset": _subset(loader.dataset, sampler),
    }


_NEW = ("generator", "subset")  # which files of earlier versions do not tell
_CHECKSUMS: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()
"""Of what chooses some of a dataset's samples, when it was first looked at."""


def _subset(dataset: Any, sampler: Any) -> str | None:
    """Which of the samples there are, where PyTorch's own classes choose some of them."""
    chosen: list[Any] = [sampler] if type(sampler) is SubsetRandomSampler else []
    while type(dataset) is Subset:
        chosen.append(dataset)
        dataset = dataset.dataset
    sums = []
    for each in chosen:
        if each not in _CHECKSUMS:
            _CHECKSUMS[each] = _checksum(each.indices)
        sums.append(_CHECKSUMS[each])
    return ", ".join(filter(None, sums)) or None


def _checksum(indices: Any) -> str | None:
    try:
        return f"checksum {zlib.crc32(np.asarray(indices, dtype=np.int64).tobytes()):08x}"
    except (TypeError, ValueError, OverflowError):  # other things than numbers
        return None


def stretches_for(
    then: Mapping[str, Any],
    now: Mapping[str, Any],
    before: Stretches,
    taken: int,
    resizable: bool,
    name: str,
    worlds: tuple[int, int],
) -> Stretches:
    """The stretches of a pass that was cut after ``taken`` batches and goes on with the settings of ``now``.

    ``before`` are those it had; ``resizable`` says whether batches of another size can be made of the samples that are left;
    ``worlds`` are how many processes shared the data then, and how many do now.

    Raises :class:`CheckpointMismatch` where it cannot go on with these settings: a sample would come twice, or never.
    """
    other = [key for key in {**then, **now} if then.get(key) != now.get(key) and (key in then or key not in _NEW)]
    world, present = worlds
    if not then or (not other and world == present):
        return before
    size, since = then.get("batch_size"), taken - sum(batches for batches, _, _ in before)
    if other in ([], ["batch_size"]) and resizable and size and now["batch_size"]:
        return (*before, (since, int(size), world))
    if not other:
        warn_user(
            f"The run was cut inside an epoch by {world} process{'es' if world > 1 else ''}, and {present} share {name} now, "
            f"which cannot be read on from one sample: some samples of the epoch come twice, and others not at all. Weights and "
            f"optimizers are exact. To lose none, go on with {world}, or from an epoch's end."
        )
        return before
    used = f"{taken} batches"
    if isinstance(size, int):
        used += f" ({sum(batches * each for batches, each, _ in before) + since * size} samples)"
    words = " and ".join(f"{key}={then.get(key)!r} then, {now.get(key)!r} now" for key in other)
    raise CheckpointMismatch(
        f"The run was cut inside an epoch, after {used} of {name}, and cannot go on there with another loader: {words}. A sample "
        f"would come twice, or never. Finish the epoch with the loader as it was, or go on from a checkpoint of an epoch's end."
    )


def left_of(stretches: Stretches, total: int, share: Share) -> tuple[int, int]:
    """Of an order of ``total`` samples: how many batches the stretches have, and how many samples ``share`` has behind them."""
    used = sum(batches * size * world for batches, size, world in stretches)
    return sum(batches for batches, _, _ in stretches), share.size(max(0, total - used))


class Resized(BatchSampler):
    """What ``share`` has of a sampler's samples, in batches of other sizes first, then in batches of ``batch_size``."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool, stretches: Stretches, share: Share = ALONE) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.stretches, self.share = stretches, share

    def __len__(self) -> int:
        done, left = left_of(self.stretches, len(self.sampler), self.share)  # type: ignore[arg-type]  # samplers that tell no length make a loader without one
        return done + (left // self.batch_size if self.drop_last else -(-left // self.batch_size))

    def __iter__(self) -> Iterator[list[Any]]:
        samples = iter(self.sampler)
        for batches, size, world in self.stretches:
            rank = self.share.rank if self.share.rank < world else 0
            for _ in range(batches):
                yield list(islice(samples, size * world))[rank::world]
        own = iter(self.share.of(samples))
        while batch := list(islice(own, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
