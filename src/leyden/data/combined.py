"""CombinedLoader: several loaders read side by side or one after another."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from leyden.data.reading import is_plain, length_of, refuse_leak
from leyden.errors import EmptyLoader, InvalidOption, MisconfigurationException
from leyden.spelling import exact_arguments

Mode = Literal["min_size", "max_size_cycle", "max_size", "sequential"]
MODES: tuple[str, ...] = ("min_size", "max_size_cycle", "max_size", "sequential")


@exact_arguments
class CombinedLoader:
    """Read several loaders as one.

    Iterating yields ``(batch, batch_idx, dataloader_idx)``. Except in ``sequential``, ``batch`` has the structure of
    ``iterables`` with a batch of each in the loader's place.

    Raises :class:`EmptyLoader` while it is read, where ``max_size_cycle`` has to repeat a loader that has nothing.

    Args:
        iterables: a loader, or a nested list, tuple or dict of loaders. A container of numbers or strings alone is a loader.
        mode: ``min_size`` ends with the shortest; ``max_size_cycle`` ends with the longest and starts shorter ones again;
            ``max_size`` ends with the longest and gives ``None`` for those that have ended; ``sequential`` reads one after
            another.
    """

    def __init__(self, iterables: Any, mode: Mode = "min_size") -> None:
        if mode not in MODES:
            raise InvalidOption("mode", mode, f"one of {', '.join(MODES)}")
        self._iterables = iterables
        self.mode: str = mode
        flat: tuple[list[Any], TreeSpec] = tree_flatten(iterables, is_leaf=is_plain)
        self._flat, self._spec = flat
        self._limits: list[int | float] | None = None
        self._running: Iterator[tuple[Any, int, int]] | None = None
        self._iterators: list[Iterator[Any] | None] = []
        self.finished: list[bool] = []

    @property
    def iterables(self) -> Any:
        """The loaders, in their structure."""
        return self._iterables

    @property
    def flattened(self) -> list[Any]:
        """The loaders in a flat list."""
        return self._flat

    @flattened.setter
    def flattened(self, loaders: list[Any]) -> None:
        if len(loaders) != len(self._flat):
            raise InvalidOption("flattened", loaders, f"a list of {len(self._flat)} loaders")
        self._flat = loaders
        self._iterables = tree_unflatten(loaders, self._spec)

    @property
    def sampler(self) -> Any:
        """The samplers of the loaders, in their structure."""
        return tree_unflatten([getattr(loader, "sampler", None) for loader in self._flat], self._spec)

    @property
    def batch_sampler(self) -> Any:
        """The batch samplers of the loaders, in their structure."""
        return tree_unflatten([getattr(loader, "batch_sampler", None) for loader in self._flat], self._spec)

    @property
    def limits(self) -> list[int | float] | None:
        """The most batches of each loader. May be set: a list, or one number for all; ``None``: no limits."""
        return self._limits

    @limits.setter
    def limits(self, limits: int | float | list[int | float] | None) -> None:
        if isinstance(limits, int | float):
            limits = [limits] * len(self._flat)
        if limits is not None:
            if len(limits) != len(self._flat):
                raise InvalidOption("limits", limits, f"a number, or a list of {len(self._flat)}: one for each loader")
            for limit in limits:
                if isinstance(limit, bool) or not (limit == float("inf") or (isinstance(limit, int) and limit >= 0)):
                    raise InvalidOption("limits", limit, "numbers of batches >= 0, or infinity")
        self._limits = None if limits is None else list(limits)

    @property
    def iterators(self) -> list[Iterator[Any] | None]:
        """The loaders' iterators of the running pass."""
        return self._iterators

    def __len__(self) -> int:
        lengths = [length_of(loader) for loader in self._flat]
        if self.limits is not None:
            lengths = [
                length if limit == float("inf") else (int(limit) if length is None else min(length, int(limit)))
                for length, limit in zip(lengths, self.limits, strict=True)
            ]
        if not lengths:
            return 0
        known = [length for length in lengths if length is not None]
        if len(known) < len(lengths):
            number = lengths.index(None)
            loader = self._flat[number]
            of = f" of {type(loader.dataset).__name__}" if hasattr(loader, "dataset") else ""
            raise TypeError(
                f"Loader {number} of the CombinedLoader ({type(loader).__name__}{of}) does not tell its length, so the whole has "
                f"none. Give its dataset __len__."
            )
        if self.mode == "min_size":
            return min(known)
        return sum(known) if self.mode == "sequential" else max(known)

    def reset(self) -> None:
        """Let go of the running pass's iterators."""
        self._iterators = []
        self.finished = []
        self._running = None

    def __iter__(self) -> Iterator[tuple[Any, int, int]]:
        self._running = self.read(lambda position: iter(self._flat[position]))
        return self._running

    def __next__(self) -> tuple[Any, int, int]:
        """The next batch of the pass that ``iter()`` has begun last."""
        if self._running is None:
            raise MisconfigurationException("Call iter() on the CombinedLoader first, or read it in a for loop.")
        return next(self._running)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is read from the beginning."""
        return {"iterables": self._iterables, "mode": self.mode, "limits": self._limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["iterables"], state["mode"])  # type: ignore[misc]  # the structure is found again, not copied
        self._limits = state["limits"]

    def read(
        self,
        opener: Callable[[int], Iterator[Any]],
        iterators: list[Iterator[Any] | None] | None = None,
        finished: list[bool] | None = None,
        index: int = 0,
    ) -> Iterator[tuple[Any, int, int]]:
        """As iterating, with loaders opened by ``opener``; from batch ``index`` on where ``iterators`` stand there already."""
        self._iterators = list(iterators) if iterators is not None else [None] * len(self._flat)
        self.finished = finished if finished is not None else [False] * len(self._flat)
        mine = self._iterators
        try:
            yield from self._one_by_one(opener, index) if self.mode == "sequential" else self._side_by_side(opener, index)
        finally:
            if self._iterators is mine:
                self._iterators = []  # worker processes end with them

    def _side_by_side(self, opener: Callable[[int], Iterator[Any]], index: int) -> Iterator[tuple[Any, int, int]]:
        for position, iterator in enumerate(self._iterators):
            if iterator is None:
                self._iterators[position] = opener(position)
        while self._flat:
            batches = []
            for position, loader in enumerate(self._flat):
                batch, ended = self._next(position, loader, index, opener)
                if ended and self.mode == "min_size":
                    return
                batches.append(batch)
            if all(self.finished):
                return
            yield tree_unflatten(batches, self._spec), index, 0
            index += 1

    def _next(self, position: int, loader: Any, index: int, opener: Callable[[int], Iterator[Any]]) -> tuple[Any, bool]:
        over = self.limits is not None and index >= self.limits[position]
        if self.finished[position] and self.mode != "max_size_cycle":
            return None, True
        if not over:
            try:
                return self._take(position), False
            except StopIteration as error:
                refuse_leak(error, loader, index)
        self.finished[position] = True
        if self.mode != "max_size_cycle" or all(self.finished):
            return None, True
        self._iterators[position] = opener(position)
        try:
            return self._take(position), False
        except StopIteration as error:
            refuse_leak(error, loader, index)
            raise EmptyLoader(
                f"Loader {position} of the CombinedLoader ({type(loader).__name__}) had no batch when it was started again for "
                f"batch {index}, and mode 'max_size_cycle' repeats loaders that are shorter than the longest. Pass a loader that "
                f"has data and can be iterated more than once, or use mode='max_size' or 'min_size'."
            ) from None

    def _take(self, position: int) -> Any:
        iterator = self._iterators[position]
        assert iterator is not None
        return next(iterator)

    def _one_by_one(self, opener: Callable[[int], Iterator[Any]], index: int) -> Iterator[tuple[Any, int, int]]:
        for position, loader in enumerate(self._flat):
            if self.finished[position]:
                continue
            if self._iterators[position] is None:
                self._iterators[position] = opener(position)
            while self.limits is None or index < self.limits[position]:
                try:
                    batch = self._take(position)
                except StopIteration as error:
                    refuse_leak(error, loader, index)
                    break
                yield batch, index, position
                index += 1
            self.finished[position] = True
            index = 0
