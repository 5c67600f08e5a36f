"""The batches of a stage: its loaders under their limit, read from anywhere, with a state to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from leyden.checked import limited
from leyden.data.carried import Carried
from leyden.data.combined import CombinedLoader
from leyden.data.ends import Meeting, Window, shortest
from leyden.data.overfit import overfitted
from leyden.data.reader import Reader
from leyden.data.reading import is_loader, is_plain, length_of, read
from leyden.data.share import ALONE, Share
from leyden.errors import EmptyLoader, InvalidLoader, LeydenWarning, warn_user


class Source:
    """The batches of a stage.

    Each loader that is read on its own has a reader. Training has one: several loaders are read side by side, shorter ones again
    and again until the longest ends. Evaluation has one for each loader, to be read one after another; a :class:`CombinedLoader`
    is one, unless it is ``sequential``.

    Args:
        given: the loaders, in any structure that the stage takes.
        name: where they come from, for messages.
        limit: batches of each loader, or a share of them.
        limit_name: the option that says so.
        training: whether they are for training.
        in_order: read the same first batches in every epoch, as ``overfit_batches`` does.
        share: which of the samples are this process's own.
        indices: whether the indices of each batch's samples are to be known: see :attr:`batch_indices`.

    Raises :class:`InvalidLoader` for what is none, :class:`EmptyLoader` for one without a batch, and :class:`Unsupported` for one
    that several processes cannot share.
    """

    def __init__(
        self,
        given: Any,
        name: str,
        limit: int | float,
        limit_name: str,
        *,
        training: bool,
        in_order: bool = False,
        share: Share = ALONE,
        indices: bool = False,
    ) -> None:
        check_loaders(given, name)
        self.name, self.limit, self.limit_name = name, limit, limit_name
        self.training, self.share, self.indices = training, share, indices
        loaders = [side_by_side(given)] if training else one_by_one(given)
        if in_order:
            loaders = [overfitted(loader, limit, limit_name) for loader in loaders]
        self.readers = [Reader(loader, training=training, share=share, indices=indices) for loader in loaders]
        self.lengths: list[int | None] = []  # batches that each reader's loader says it has for this process
        self.stops: list[int | None] = []  # the same under the limit
        self.longest: list[int | None] = []  # the same of the process that has most
        self.window: Window = alone
        """Of training: batches that make a step, and whether each step exchanges gradients."""
        self.cut: dict[str, Any] | None = None  # where a resumed run goes on
        self.batch_indices: list[Any] | None = None
        """The dataset's indices of the samples in the newest batch, as the sampler gave them. Known where they were asked for,
        of map-style data that a plain DataLoader reads; ``None`` elsewhere."""
        self.measure()

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or what is pickled, belongs to no fit."""
        return {**self.__dict__, "window": alone}

    def measure(self, begins: bool = False) -> bool:
        """Ask for the lengths anew: a dataset may have grown. Whether any is another than before. ``begins``: of a new epoch."""
        before = self.lengths
        for leaf in (leaf for each in self.readers for leaf in each.leaves if begins):
            leaf.stretches = ()
        self.lengths, self.stops, self.longest = [], [], []
        for number, reader in enumerate(self.readers):
            length = reader.length(self.share)
            longest = length if self.share.rank == 0 else reader.length(replace(self.share, rank=0))
            if self.training and not self.share.processes.alone:
                length = longest = shortest(self.share.processes, longest, self.name, reader.is_shared)
            if longest == 0 and self.limit != 0:
                each = f" for each of {self.share.world} processes" if self.share.world > 1 else ""
                raise EmptyLoader(
                    f"{self._named(number)} has no batch: its length is 0{each}. (drop_last=True drops a lone small batch.)"
                )
            # of the longest: the same limit for all processes, which one of them cannot meet alone
            stop = 0 if longest == 0 else limited(longest, self.limit, self.limit_name)
            self.lengths.append(length)
            self.longest.append(stop)
            self.stops.append(stop if stop is None or length is None else min(stop, length))
        return self.lengths != before

    @property
    def batches(self) -> list[int | float]:
        """Batches of each reader; infinity where unknown."""
        return [float("inf") if stop is None else stop for stop in self.stops]

    @property
    def batches_of_each(self) -> list[int | float]:
        """Batches of each loader, also of those that one reader reads side by side; infinity where unknown. It is the number of
        the process that has most, and so the same on all."""
        each: list[int | float] = []
        for reader, longest in zip(self.readers, self.longest, strict=True):
            if reader.combined is None:
                each.append(float("inf") if longest is None else longest)
                continue
            for leaf in reader.leaves:
                length = length_of(leaf.seen_with(replace(leaf.share, rank=0)))
                stop = None if length == 0 else limited(length, self.limit, self.limit_name)
                each.append(0 if length == 0 else float("inf") if stop is None else stop)
        return each

    def _named(self, reader: int) -> str:
        return self.name if len(self.readers) == 1 else f"{self.name} (loader {reader})"

    # -- of the first reader: training's only one
    @property
    def length(self) -> int | None:
        return self.lengths[0]

    @property
    def stop(self) -> int | None:
        return self.stops[0]

    @property
    def knows_last(self) -> bool:
        """Whether the loader tells its length, so that nothing has to be fetched ahead to know the last batch."""
        return self.lengths[0] is not None

    @property
    def carried(self) -> list[Carried]:
        """What each loader carries from pass to pass."""
        return [leaf.carried for reader in self.readers for leaf in reader.leaves]

    def follow(self, before: Source | None) -> Source:
        """This source, in the place of the one ``before``: hooks set in its samplers what they set in those."""
        known = [] if before is None else before.carried
        if known:
            for each in self.carried:
                each.set_by_hooks = known[0].set_by_hooks
        return self

    # -- reading
    def read(
        self, epoch: int = 0, start: int = 0, *, reader: int = 0, most: int | None = None, in_flight: bool = False
    ) -> Iterator[tuple[Any, int, bool]]:
        """Batches of one reader: ``(batch, index, is_last)``.

        Args:
            epoch: the number that the samplers are told.
            start: the first batch's number in the epoch. After :meth:`restore`, it is the batch at which that state was taken.
            reader: which of the readers.
            most: at most so many batches, counted from the epoch's beginning.
            in_flight: note the random state before each fetch, so that a state that leaves out the batch in hand draws again
                what that batch's dataset drew in this process. It costs about 0.1 ms a batch; where training fetches ahead it is
                done always.
        """
        chosen, cut = self.readers[reader], self._take_cut(reader)
        goes_on = bool(start) or (cut is not None and epoch == cut["epoch"] and chosen.is_like(cut))
        if goes_on and cut is not None and chosen.fit_to(cut, start, self._named(reader)):
            self.measure()
        stop = self.stops[reader]
        if most is not None:
            stop = most if stop is None else min(stop, most)
        self.batch_indices = None
        if stop is not None and start >= stop:
            if not start and most != 0 and self.longest[reader]:
                chosen.agree()  # with those that have a part of it
            return iter(())
        meeting = None
        if self.training and self.lengths[reader] is None and not self.share.processes.alone:
            meeting = Meeting(self.share.processes, *self.window())
            chosen.remember(meeting.ahead + 1)
        ahead = self.lengths[reader] is None and (chosen.fetches_ahead or not self.training or meeting is not None)
        draws = in_flight or (ahead and self.training)
        if goes_on:
            iterator = chosen.reopen(cut or {}, epoch, start, draws)
        else:
            if cut is not None:
                chosen.resumed(cut)
            iterator = chosen.open(epoch, draws)
        name = self._named(reader) if self.share.world == 1 else None  # the share of one of several may be nothing
        batches = read(chosen.seen(), iterator, start, stop, not ahead, name, meeting)
        return self._with_indices(chosen, batches) if self.indices else batches

    def _take_cut(self, reader: int) -> dict[str, Any] | None:
        cut = self.cut
        if cut is None or cut.get("reader", 0) != reader:
            return None
        self.cut = None
        return cut

    def _with_indices(self, reader: Reader, batches: Iterator[tuple[Any, int, bool]]) -> Iterator[tuple[Any, int, bool]]:
        for batch, index, is_last in batches:
            self.batch_indices = reader.indices_of(index)
            yield batch, index, is_last

    def report_short(self, reader: int, read: int) -> None:
        """Say that a loader ended after ``read`` batches, which is before its own length."""
        warn_user(
            f"{self._named(reader)} ended after {read} of the {self.stops[reader]} batches that it said it has. Correct the "
            f"length of its sampler or dataset if data is missing.",
            LeydenWarning,
        )

    def close(self) -> None:
        """Let go of the workers. Where reading stood is still known."""
        for reader in self.readers:
            reader.close()

    # -- kept across a resume
    def state_dict(self, reader: int, taken: int) -> dict[str, Any] | None:
        """Where a reader is after ``taken`` batches of its epoch; ``None`` where it has not been read.

        The batch in hand may be counted or not: see :meth:`Reader.state_dict`. A state that was put back and not read on from is
        returned as it was.
        """
        chosen = self.readers[reader]
        if self.cut is not None and self.cut.get("reader", 0) == reader:
            return self.cut
        if chosen.epoch is None:
            return None
        return {"epoch": chosen.epoch, "reader": reader, **chosen.state_dict(taken)}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go on from what :meth:`state_dict` returned: by reading the same epoch from the batch where that was taken."""
        self.cut = state
        if state is not None and state.get("reader", 0) < len(self.readers):
            self.readers[state.get("reader", 0)].restore(state)


def alone() -> tuple[int, None]:
    """The window where no fit says another: each batch by itself, with no steps at which processes meet."""
    return 1, None


def side_by_side(given: Any) -> Any:
    """The loaders as one, whose batches hold a batch of each."""
    several = isinstance(given, list | tuple | Mapping) and not is_plain(given)
    return CombinedLoader(given, "max_size_cycle") if several else given


def one_by_one(given: Any) -> list[Any]:
    """The loaders in the order in which they are read."""
    if isinstance(given, CombinedLoader):
        return given.flattened if given.mode == "sequential" else [given]
    if is_plain(given):
        return [given]
    if isinstance(given, Mapping):
        return list(given.values())
    return list(given) if isinstance(given, list | tuple) else [given]


def check_loaders(given: Any, name: str) -> None:
    """Raise :class:`InvalidLoader` where something in ``given`` cannot be iterated for batches."""
    if isinstance(given, CombinedLoader):
        for position, value in enumerate(given.flattened):
            check_loaders(value, f"loader {position} of {name}")
        return
    if is_plain(given):
        return
    if isinstance(given, Mapping):
        for key, value in given.items():
            check_loaders(value, f"item {key!r} of {name}")
    elif isinstance(given, list | tuple):
        for position, value in enumerate(given):
            if isinstance(value, Tensor) or (
                isinstance(value, list | tuple | Mapping) and any(isinstance(item, Tensor) for item in _items(value))
            ):
                raise InvalidLoader(
                    f"{name} is a {type(given).__name__} of batches, and a {type(given).__name__} is read as several loaders. "
                    f"Wrap the batches in a loader: DataLoader(batches, batch_size=None)."
                )
            check_loaders(value, f"item {position} of {name}")
    elif isinstance(given, Tensor | str | bytes) or not is_loader(given) or isinstance(given, type):
        raise InvalidLoader(
            f"{name} is {_described(given)}, which is no loader. Expected a torch DataLoader, or anything that can be "
            f"iterated for batches."
        )
    elif isinstance(given, Dataset) and not isinstance(given, IterableDataset):
        raise InvalidLoader(
            f"{name} is a dataset ({type(given).__name__}) and not a loader. Wrap it: DataLoader(dataset, batch_size=...)."
        )


def _items(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value)


def _described(given: object) -> str:
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    return f"{given!r} ({type(given).__name__})"
