"""Whether training waited for its data, known from a few fetches; and the line that says so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from leyden.state.progress import Progress

Batch = tuple[Any, int, bool]
DENSE, WIDEST = 32, 89
"""So many fetches are measured one after another, then ever fewer: at last one in 89, a prime, so that it is not always the same
worker's."""
LEAST_SECONDS, LEAST_FETCHES = 2.0, 10
"""Of shorter trainings, and from fewer fetches, nothing is said."""
SHARE = 0.5
"""Waiting is the bottleneck where it takes more than all the rest."""


class DataWait:
    """How much of the time of training went into waiting for batches, estimated from some of the fetches.

    Between two of these nothing of Python runs that would not run without: the batches go through iterators written in C. The
    batches since the fetch before count like the measured one; the first of each reading, which may start workers, counts for
    itself alone. On CUDA a wait counts as far as the device had nothing left to do: what the host waits for while the device
    computes is no loss.

    Args:
        device: where training runs.
        progress: how far training is.
    """

    def __init__(self, device: torch.device, progress: Progress) -> None:
        self.clock: Callable[[], float] = time.perf_counter
        self.seconds = 0.0
        """Spent over the batches, whatever ran between them."""
        self.waited = 0.0
        self.opening = 0.0
        """The part of :attr:`waited` that was for first batches."""
        self.fetches = 0
        """Measured, first ones left out."""
        self._device, self._progress = device, progress

    def along(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """``batches``, with some of the fetches measured."""
        return chain.from_iterable(self._stretches(batches))

    def _stretches(self, batches: Iterator[Batch]) -> Iterator[Any]:
        start = self.clock()
        is_idle = self.is_idle
        before, waited, gap, measured = -1, 0.0, 1, 0
        try:
            while True:
                began_idle = is_idle is None or is_idle()
                began = self.clock()
                batch = next(batches, None)
                if batch is None:
                    break
                waited = self.clock() - began
                if is_idle is not None and not began_idle:
                    waited = waited / 2 if is_idle() else 0.0  # it ran dry somewhere in between
                if measured:
                    self.fetches += 1
                    self.waited += waited * (batch[1] - before)
                else:
                    self.opening += waited
                    self.waited += waited
                before, measured = batch[1], measured + 1
                if self.fetches >= DENSE:
                    gap = min(gap + gap // 2 + 1, WIDEST)
                yield (batch,)
                del batch  # it is the loop's, and may be large
                if gap > 1:
                    yield islice(batches, gap - 1)
            if measured > 1:
                self.waited += waited * max(0, self._progress.batch - 1 - before)
        finally:
            self.seconds += self.clock() - start

    @property
    def is_idle(self) -> Callable[[], bool] | None:
        """Asks the device whether it has nothing left to do, without waiting for it; ``None`` where there is none to ask."""
        return torch.cuda.current_stream(self._device).query if self._device.type == "cuda" else None

    @property
    def share(self) -> float:
        """Of the time of training, what went into waiting; 0 where that is not known well enough."""
        if self.seconds < LEAST_SECONDS or self.fetches < LEAST_FETCHES:
            return 0.0
        return min(self.waited / self.seconds, 1.0)


def line_about_waiting(wait: DataWait, loaders: Any, device: torch.device) -> str | None:
    """What to say after training where waiting for ``loaders`` was the bottleneck: its share, and what to try."""
    if wait.share <= SHARE:
        return None
    advice = list(_advice(wait, loaders, device))
    return f"Waiting for data took {wait.share:.0%} of the training time. To try: {'; '.join(advice)}."


def _advice(wait: DataWait, loaders: Any, device: torch.device) -> Iterator[str]:
    loader = _first_loader(loaders)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(max(cores - 1, 2), 8)
    if loader is None:
        yield "fetch batches in other processes, as DataLoader(num_workers=...) does"
        return
    if loader.num_workers == 0:
        yield f"DataLoader(num_workers={workers}, persistent_workers=True), which loads while the model computes"
    else:
        if not loader.persistent_workers and wait.opening > wait.waited / 4:
            yield "persistent_workers=True, which keeps the workers from epoch to epoch"
        if loader.num_workers < workers:
            yield f"num_workers={workers} instead of {loader.num_workers}"
        else:
            yield "less work for each sample, or its result kept in a file"
    if device.type == "cuda" and not loader.pin_memory:
        yield "pin_memory=True"
    whole = hasattr(loader.dataset, "__getitems__") or isinstance(loader.dataset, IterableDataset | TensorDataset)
    if not whole:
        yield "a dataset with __getitems__, which reads a whole batch at once"


def _first_loader(loaders: Any) -> DataLoader[Any] | None:
    if isinstance(loaders, DataLoader):
        return loaders
    parts = loaders.values() if isinstance(loaders, Mapping) else loaders if isinstance(loaders, list | tuple) else ()
    return next(filter(None, map(_first_loader, parts)), None)
