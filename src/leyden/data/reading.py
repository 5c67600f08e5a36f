"""Read a loader batch by batch: know its length, know the last batch, let no StopIteration of the user's end it unseen."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import IterableDataset
from torch.utils.data.dataloader import _SingleProcessDataLoaderIter

from leyden.data.ends import Meeting
from leyden.errors import EmptyLoader, LeakedStopIteration


def length_of(loader: Any) -> int | None:
    """Batches that ``loader`` says it has, or ``None`` where it does not say."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError, AttributeError):
        return None


def reads_map_style(loader: Any) -> bool:
    """Whether a sampler decides what is read, so that an early end cannot come from the data."""
    dataset = getattr(loader, "dataset", None)
    return dataset is not None and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)


def leaked(error: StopIteration, loader: Any) -> bool:
    """Whether a StopIteration came out of the user's dataset or collate function and not from the end of the data."""
    if not reads_map_style(loader):
        return False
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        # PyTorch's fetcher calls the dataset and collate_fn; `reraise` brings an exception over from a worker
        if code.co_name in ("fetch", "reraise") and "torch" in code.co_filename:
            return True
        trace = trace.tb_next
    return False


def refuse_leak(error: StopIteration, loader: Any, index: int) -> None:
    """Raise :class:`LeakedStopIteration` where user code let a StopIteration escape while batch ``index`` was read."""
    if leaked(error, loader):
        raise LeakedStopIteration(
            f"The dataset (or collate_fn) of {type(loader).__name__} raised StopIteration while batch {index} was read. It would "
            f"have ended the epoch unnoticed. Raise another exception, or call next(iterator, default)."
        ) from error


def read(
    loader: Any,
    iterator: Iterator[Any],
    start: int,
    stop: int | None,
    one_by_one: bool,
    name: str | None,
    meeting: Meeting | None = None,
) -> Iterator[tuple[Any, int, bool]]:
    """Yield ``(batch, index, is_last)`` from ``start`` up to ``stop``.

    With ``one_by_one`` nothing is fetched ahead: the loader knows its length, or must not be read further than it is used.
    Else one batch is, so that the last is known to be it. Raises :class:`EmptyLoader` for a loader without a batch; with ``None``
    as its ``name`` it may have none. With a ``meeting`` several processes end at the same batch.
    """
    if stop is not None and start >= stop:
        return
    index = start
    if one_by_one:
        whole = stop is not None and reads_map_style(loader) and length_of(loader) == stop
        while stop is None or index < stop:
            try:
                batch = next(iterator)
            except StopIteration as error:
                refuse_leak(error, loader, index)
                refuse_empty(index, name)
                return
            is_last = index + 1 == stop
            if whole and is_last:
                _end_sampler(iterator)
            yield batch, index, is_last
            index += 1
        return
    ready: deque[Any] = deque()
    ended = False
    while True:
        while not ended and len(ready) <= (1 if meeting is None else meeting.ahead):
            if stop is not None and index + len(ready) >= stop:
                ended = True
                break
            try:
                ready.append(next(iterator))
            except StopIteration as error:
                refuse_leak(error, loader, index + len(ready))
                ended = True
        last = None if meeting is None else meeting.last_batch(index, len(ready) if ended else None)
        if not ready or (last is not None and last < index):
            refuse_empty(index, name)
            return
        batch = ready.popleft()
        is_last = (ended and not ready) or index == last
        yield batch, index, is_last
        if is_last:
            return
        index += 1


def _end_sampler(iterator: Any) -> None:
    """Ask the sampler for one index more, as a plain loop does: one that has a generator of its own may draw at its end."""
    iterator = getattr(iterator, "iterator", iterator)  # what notes its fetches holds the loader's own
    if isinstance(iterator, _SingleProcessDataLoaderIter):
        next(iterator._sampler_iter, None)


def refuse_empty(index: int, name: str | None) -> None:
    if index == 0 and name is not None:
        raise EmptyLoader(
            f"{name} yielded no batch. (An iterator can be read once: pass what can be iterated again, such as a DataLoader.)"
        )


def set_epoch(loaders: Iterable[Any], epoch: int) -> None:
    """Tell the samplers of ``loaders`` the number of the epoch, each once, where they ask for it."""
    told = set()
    for loader in loaders:
        batch_sampler = getattr(loader, "batch_sampler", None)
        for sampler in (getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)):
            tell = getattr(sampler, "set_epoch", None)
            if callable(tell) and id(sampler) not in told:
                told.add(id(sampler))
                tell(epoch)


def is_plain(given: object) -> bool:
    """Whether ``given`` is a container of numbers or strings alone: one loader, whose batches are its items."""
    if not isinstance(given, list | tuple | set | frozenset) or not given:
        return False
    return all(isinstance(item, int | float | str) for item in given)


def is_loader(given: Any) -> bool:
    """Whether ``given`` can be iterated for batches."""
    return isinstance(given, Iterable) or hasattr(given, "__getitem__")
