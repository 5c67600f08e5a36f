"""The order of the data: what a sampler gives, skipped over where a run was cut, and noted where it could not be drawn again."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from leyden.data.agreed import Stream
from leyden.data.seeded import Tagged, TaggedIndex, batch_seed
from leyden.data.settings import Resized, Stretches
from leyden.data.share import ALONE, Share, Shared
from leyden.errors import CheckpointMismatch


class Fixed(Sampler[Any]):
    """Gives the same items, of a sampler that has ``length`` of them, in every epoch."""

    def __init__(self, items: list[Any], length: int | None) -> None:
        self.items = items
        self.length = len(items) if length is None else length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


# They draw all of an epoch when its first index is asked for, so they can be read again by their random state alone.
_REPEATABLE = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler, DistributedSampler, Fixed)


def is_fixed(sampler: Any) -> bool:
    """Whether ``sampler`` is known to draw nothing from any process's random state."""
    if type(sampler) is BatchSampler:
        return is_fixed(sampler.sampler)
    return type(sampler) in (SequentialSampler, DistributedSampler, Fixed)


def is_repeatable(sampler: Any) -> bool:
    """Whether ``sampler`` is one of PyTorch's own, which give the same order again from the same random state."""
    if type(sampler) is BatchSampler:
        return is_repeatable(sampler.sampler)
    return type(sampler) in _REPEATABLE


class Indices:
    """Stands in for a loader's sampler for one epoch.

    Args:
        sampler: the loader's batch sampler, or its sampler where it does not batch.
        batches: whether the sampler gives batches of indices, or single ones.
        seed: the epoch's seed for random augmentation, or ``None`` where the data draws by itself.
        keep: how many of the newest indices to remember, for samplers that cannot be read again, and for who asks for them.
        share: which of the indices are this process's own.
        samples: whether the share is one of samples, which this process batches for itself, and not one of whole batches.
        stream: what the sampler draws from, where several processes have to have the same order.
        stretches: batches of other sizes, or of other processes, that come first, where these were changed inside the epoch.
    """

    def __init__(
        self,
        sampler: Any,
        *,
        batches: bool,
        seed: int | None,
        keep: int,
        share: Share = ALONE,
        samples: bool = False,
        stretches: Stretches = (),
        stream: Stream | None = None,
    ) -> None:
        self.sampler_given = sampler
        self.order: Any = sampler
        if stretches:
            self.order = Resized(sampler.sampler, sampler.batch_size, sampler.drop_last, stretches, share)
        elif share.world > 1:
            own = Shared(sampler.sampler if samples else sampler, share)
            self.order = BatchSampler(own, sampler.batch_size, sampler.drop_last) if samples else own
        self.share = share
        self.batches = batches
        self.seed = seed
        self.skip = 0  # how many the sampler has to give before the next one
        self.position = 0  # how many this epoch has had
        self.waiting: deque[Any] = deque()  # drawn before the cut, not yet used
        self.again = 0  # how many of those the sampler has to give once more
        self.replays = False  # whether it gives them as they are used, and not before
        self.before_first: Callable[[], None] | None = None
        self.expected: int | None = None  # the checksum of what is skipped
        self.drawn: deque[tuple[Any, int]] | None = deque(maxlen=keep) if keep else None
        self.repeatable = is_repeatable(sampler)
        self.checksum = 0
        self.over = False  # the sampler has given its last, and its own state may be that of a new beginning
        self.started = False
        self._live: Iterator[Any] | None = None
        self._stream = stream

    def __len__(self) -> int:
        return len(self.order)

    def __getattr__(self, name: str) -> Any:
        if name == "sampler_given":
            raise AttributeError(name)
        return getattr(self.sampler_given, name)

    def __iter__(self) -> Iterator[Any]:
        self._live = None
        self.started = False
        return self

    def start(self, draw: int = 0) -> None:
        """Open the sampler and pass over what was used before the cut; ``draw`` items after those are drawn now."""
        if self.started:
            return
        self.started = True
        if self.before_first is not None:
            self.before_first()
        self._live = iter(self.order) if self._stream is None else Drawn(self._stream, self.order, once=self.repeatable)
        checksum = 0
        for _ in range(self.skip):
            item = next(self._live, None)
            if self.expected is not None:
                checksum = zlib.crc32(_plain(item), checksum)
        if self.expected is not None and checksum != self.expected:
            given = self.sampler_given
            name = type(given.sampler if type(given) is BatchSampler else given).__name__
            raise CheckpointMismatch(
                f"{name} gave other indices when it was read again than before the interruption, and the run cannot go on at the "
                f"right sample. Draw the whole order in __iter__, or give the sampler state_dict() and load_state_dict(); or go "
                f"on from a checkpoint of an epoch's end."
            )
        if not self.replays:
            for _ in range(self.again):
                next(self._live, None)
            self.again = 0
        if self.over:
            self._live = iter(())
        if not self.waiting:
            self.waiting.extend(islice(self._live, draw))

    def __next__(self) -> Any:
        if not self.started:
            self.start()
        assert self._live is not None
        if self.waiting:
            item = self.waiting.popleft()
            if self.again:
                self.again -= 1
                next(self._live, None)  # with what that draws, at the moment when it was drawn before
        else:
            try:
                item = next(self._live)
            except StopIteration:
                self.over = True
                raise
        if self.drawn is not None:
            if not self.repeatable:
                self.checksum = zlib.crc32(_plain(item), self.checksum)
            self.drawn.append((item, self.checksum))
        position = self.position
        self.position += 1
        if self.seed is None:
            return item
        # the number in the order of all processes: no two of them draw the same
        seed = batch_seed(self.seed, position * self.share.world + self.share.rank)
        return Tagged(item, seed) if self.batches else TaggedIndex(item, seed)

    def size_of(self, number: int) -> int | None:
        """How many samples stand in batch ``number``, where it is among those that are remembered."""
        back = self.position - number
        if self.drawn is None or not 0 < back <= len(self.drawn):
            return None
        item = self.drawn[-back][0]
        return len(item) if self.batches and item is not None else None

    def of(self, number: int) -> list[Any] | None:
        """The indices of the samples in batch ``number``, where it is among those that are remembered."""
        back = self.position - number
        if self.drawn is None or not 0 < back <= len(self.drawn):
            return None
        item = self.drawn[-back][0]
        if isinstance(item, torch.Tensor):
            item = item.tolist()
        return None if item is None else list(item) if self.batches else [item]

    def close(self) -> None:
        """Nothing more is drawn: let go of the sampler's iterator. What is remembered stays, for a state that is taken later."""
        self._live = iter(())

    # -- kept across a resume
    def state_dict(self, taken: int) -> dict[str, Any]:
        """What a sampler that cannot be read again needs: what it gave and was not used, and a checksum of what was."""
        if self.drawn is None or self.repeatable or self.position < taken:
            return {}
        ahead = self.position - taken
        items = list(self.drawn)
        waiting = [item for item, _ in items[len(items) - ahead :]] if ahead else []
        before = items[len(items) - ahead - 1][1] if len(items) > ahead else (0 if taken == 0 else None)
        return {"waiting": waiting, "checksum": before, "over": self.over}

    def continue_from(self, state: dict[str, Any], taken: int, sampler_stands_there: bool = False) -> None:
        """Go on where ``taken`` were used; with ``sampler_stands_there`` the sampler itself goes on after all that it gave."""
        self.position = taken
        self.skip = 0 if sampler_stands_there else taken
        if self.drawn is not None and state:
            self.waiting = deque(state["waiting"])
            self.again = 0 if sampler_stands_there else len(self.waiting)
            self.over = sampler_stands_there and state.get("over", False)
            self.expected = None if sampler_stands_there else state["checksum"]
            self.checksum = state["checksum"] or 0
            self.drawn.append((None, self.checksum))


class Drawn:
    """What ``order`` gives, drawn from ``stream``: with ``once`` nothing is drawn after the first. No generator, for a
    StopIteration must show where it came from."""

    def __init__(self, stream: Stream, order: Any, once: bool) -> None:
        self.stream, self.order, self.once = stream, order, once
        self.live: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.live is None:
            return self.stream.draw(self._first)
        return next(self.live) if self.once else self.stream.draw(self.live.__next__)

    def _first(self) -> Any:
        self.live = iter(self.order)
        return next(self.live)


def _plain(item: Any) -> bytes:
    if isinstance(item, torch.Tensor):
        item = item.tolist()
    return repr(item).encode()
