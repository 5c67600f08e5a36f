"""In which buckets DistributedDataParallel exchanges gradients: a run that goes on has those of the run before.

It chooses them anew after its first backward. Where more than two processes add up, the order in which they do so depends on a
gradient's place in its bucket, and so do the last bits of the sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

_ALWAYS, _AS_USUAL = 1, 100  # iterations between two of which torch notes what it does


def settle(wrapped: DistributedDataParallel) -> None:
    """Choose the buckets now that the next forward would choose. Called on every process."""
    with suppress(RuntimeError):  # the backward before left some parameter out: the next forward will say so
        wrapped.reducer._rebuild_buckets()


def layout_of(wrapped: DistributedDataParallel) -> list[list[int]] | None:
    """The parameters of each bucket, by number; ``None`` while they are those with which ``wrapped`` began."""
    notes: Any = wrapped.logger
    wrapped._set_ddp_runtime_logging_sample_rate(_ALWAYS)
    notes.set_runtime_stats_and_log()
    wrapped._set_ddp_runtime_logging_sample_rate(_AS_USUAL)
    told: str | None = notes._get_ddp_logging_data().strs_map.get("rebuilt_per_bucket_param_indices")
    return [[int(number) for number in bucket.split()] for bucket in told.split(",")] if told else None


@contextmanager
def laid_out(layout: Sequence[Sequence[int]] | None) -> Iterator[None]:
    """A DistributedDataParallel that is made inside begins with the buckets of ``layout``, where that is of its parameters."""
    if not layout:
        yield
        return
    torchs: Any = dist
    assign = torchs._compute_bucket_assignment_by_size
    numbers = sorted(number for bucket in layout for number in bucket)

    def assigned(parameters: Sequence[Any], limits: Sequence[int], *rest: Any) -> Any:
        if numbers != list(range(len(parameters))):
            return assign(parameters, limits, *rest)
        return [list(bucket) for bucket in reversed(layout)], [limits[-1]] * len(layout)  # the caller turns them around

    torchs._compute_bucket_assignment_by_size = assigned
    try:
        yield
    finally:
        torchs._compute_bucket_assignment_by_size = assign
