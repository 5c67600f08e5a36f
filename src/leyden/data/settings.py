"""Loader settings come from the command: whether a cut epoch can go on with them, and in which batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from leyden.data.reading import length_of, reads_map_style
from leyden.errors import CheckpointMismatch

Stretches = tuple[tuple[int, int], ...]
"""Of a pass whose batch size was changed: so many batches, each of so many samples, before the rest."""


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
    }


def stretches_for(
    then: Mapping[str, Any], now: Mapping[str, Any], before: Sequence[Sequence[int]], taken: int, resizable: bool, name: str
) -> Stretches:
    """The stretches of a pass that was cut after ``taken`` batches and goes on with the settings of ``now``.

    ``before`` are those it had; ``resizable`` says whether batches of another size can be made of the samples that are left.

    Raises :class:`CheckpointMismatch` where it cannot go on with these settings: a sample would come twice, or never.
    """
    had: Stretches = tuple((int(batches), int(size)) for batches, size in before)
    other = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    if not then or not other:
        return had
    size, since = then.get("batch_size"), taken - sum(batches for batches, _ in had)
    if other == ["batch_size"] and resizable and size and now["batch_size"]:
        return (*had, (since, int(size)))
    used = f"{taken} batches"
    if isinstance(size, int):
        used += f" ({sum(batches * each for batches, each in had) + since * size} samples)"
    words = " and ".join(f"{key}={then.get(key)!r} then, {now.get(key)!r} now" for key in other)
    raise CheckpointMismatch(
        f"The run was cut inside an epoch, after {used} of {name}, and cannot go on there with another loader: {words}. A sample "
        f"would come twice, or never. Finish the epoch with the loader as it was, or go on from a checkpoint of an epoch's end."
    )


def samples_before(stretches: Stretches, batch: int, size: int) -> int:
    """Samples in the batches before number ``batch``, where the rest has ``size`` each."""
    samples = 0
    for batches, each in stretches:
        samples += min(batch, batches) * each
        batch -= min(batch, batches)
    return samples + batch * size


class Resized(BatchSampler):
    """A sampler's samples in batches of other sizes first, then in batches of ``batch_size``."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool, stretches: Stretches) -> None:
        super().__init__(sampler, batch_size, drop_last)
        self.stretches = stretches

    def __len__(self) -> int:
        done = sum(batches for batches, _ in self.stretches)
        left = max(0, len(self.sampler) - samples_before(self.stretches, done, 0))  # type: ignore[arg-type]  # samplers that tell no length make a loader without one
        return done + (left // self.batch_size if self.drop_last else -(-left // self.batch_size))

    def __iter__(self) -> Iterator[list[Any]]:
        samples = iter(self.sampler)
        sizes = chain.from_iterable([size] * batches for batches, size in self.stretches)
        for size in sizes:
            yield list(islice(samples, size))
        while batch := list(islice(samples, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch
