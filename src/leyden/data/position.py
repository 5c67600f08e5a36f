"""The position in the training data: open loaders at an epoch's start, or at the batch where a run was cut."""

from __future__ import annotations

import copy
import itertools
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from leyden.checkpoint.random_state import random_state, set_random_state
from leyden.data.combined import CombinedLoader
from leyden.data.generators import generators_in, put_states, states_of
from leyden.data.indices import Indices, is_repeatable
from leyden.data.reading import length_of, reads_map_style
from leyden.data.seeded import SeededDataset, epoch_seed
from leyden.devices.seed import WORKERS_VARIABLE
from leyden.errors import LeydenWarning


def is_stateful(part: Any) -> bool:
    """Whether ``part`` can tell its state and take it back."""
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))


class LoaderPosition:
    """The position in one loader. The user's loader is neither rebuilt nor changed: a shallow copy is read where need be."""

    def __init__(self, loader: Any, beside_others: bool = False) -> None:
        self.loader = loader
        self.beside_others = beside_others  # their draws fall between this loader's opening and its first batch
        # What random augmentation draws in workers is in no loader's state. It is seeded here, where a sampler decides.
        by_sampler = isinstance(loader, DataLoader) and reads_map_style(loader) and loader.num_workers > 0
        self.stateful = is_stateful(loader) and not (by_sampler and not is_stateful(loader.dataset))
        self.is_torch = isinstance(loader, DataLoader) and not self.stateful
        self.map_style = self.is_torch and reads_map_style(loader)
        self.own_iteration = self.is_torch and type(loader).__iter__ is not DataLoader.__iter__
        self.workers = loader.num_workers if self.is_torch else 0
        self.stateful_dataset = self.is_torch and not self.map_style and not self.workers and is_stateful(loader.dataset)
        self.batches = self.is_torch and loader.batch_sampler is not None
        self.sampler: Any = (loader.batch_sampler if self.batches else loader.sampler) if self.map_style else None
        self.stateful_sampler = self._find_stateful_sampler()
        self.repeatable = self.map_style and is_repeatable(self.sampler)
        self.generators = generators_in(loader)
        self.opened: dict[str, Any] | None = None  # random states before the running epoch was opened
        self._reading: Any = None  # the running iterator, where the dataset keeps its own state
        self.indices: Indices | None = None
        self._copy: DataLoader[Any] | None = None
        self._epochs_opened = 0
        self.seeds_by_position = self.map_style and (self.workers > 0 or os.environ.get(WORKERS_VARIABLE) == "1")
        self._say_what_is_not_exact()

    def _find_stateful_sampler(self) -> Any:
        if not self.map_style or self.workers:
            return None
        inner = getattr(self.sampler, "sampler", None)
        return next((sampler for sampler in (self.sampler, inner) if sampler is not None and is_stateful(sampler)), None)

    @property
    def fetches_ahead(self) -> bool:
        """Whether a batch may be fetched ahead; what keeps its own state would be ahead with it."""
        return not (self.stateful or self.stateful_dataset)

    # -- opening
    def open(self, epoch: int) -> Iterator[Any]:
        """An iterator at the epoch's start."""
        self.opened = {"random": random_state(), "generators": states_of(self.generators), "epoch": epoch}
        self.opened["continued"] = self._reuses_workers()
        self._epochs_opened += 1
        if self.stateful_dataset:
            self._reading = iter(self.loader)
            return iter(self._reading)
        if not self.map_style or (self.repeatable and not self.seeds_by_position and not self.beside_others):
            return iter(self.loader)
        loader = self._wrapped(epoch)
        if self.opened["continued"]:
            self._begin_as_continued(self.opened["random"], fresh=loader._iterator is None)
        elif self.beside_others:
            self._note_first_draw()
        return iter(loader)

    def _note_first_draw(self) -> None:
        assert self.indices is not None
        opened = self.opened
        assert opened is not None

        def before_first() -> None:
            opened["first"] = {"random": random_state(), "generators": states_of(self.generators)}

        self.indices.before_first = before_first

    def _begin_as_continued(self, random: dict[str, Any], fresh: bool) -> None:
        """Workers that live on draw no base seed, so the sampler's draws come first; new workers in their place do draw it."""
        assert self.indices is not None

        def before_first() -> None:
            if fresh:
                set_random_state(random)
            if os.environ.get(WORKERS_VARIABLE) == "1":
                # the number of workers must not matter: without workers a base seed is drawn
                torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)

        self.indices.before_first = before_first

    def reopen(self, state: dict[str, Any], taken: int) -> Iterator[Any]:
        """An iterator whose next batch is number ``taken`` of the epoch that ``state`` was taken in.

        The global generators are left as they are: what is drawn to find the place is not seen outside.
        """
        now = random_state()
        if self.stateful:
            self.opened = {}
            if "loader" in state:
                self.loader.load_state_dict(state["loader"])
                iterator: Iterator[Any] = iter(self.loader)
                set_random_state(now)
                return iterator
            return itertools.islice(iter(self.loader), taken, None)
        opened = state.get("opened")
        self.opened = opened
        current = states_of(self.generators)
        if opened is not None:
            set_random_state(opened["random"])
            put_states(self.generators, opened["generators"])
        self._epochs_opened += 1
        iterator = self._reopen_map_style(state, taken) if self.map_style else self._reopen_others(state, taken)
        set_random_state(now)
        put_states(self.generators, current)
        return iterator

    def _reopen_map_style(self, state: dict[str, Any], taken: int) -> Iterator[Any]:
        opened = self.opened
        loader = self._wrapped(0 if opened is None else opened["epoch"], always=True)
        indices = self.indices
        assert indices is not None
        if self.own_iteration:
            pass  # what it yields need not be what the sampler gives, so all of it is read again
        elif self.stateful_sampler is not None and "sampler" in state:
            self.stateful_sampler.load_state_dict(state["sampler"])
            indices.position = taken
        else:
            indices.continue_from(state.get("indices") or {}, taken)
        if opened is not None and opened["continued"]:
            self._begin_as_continued(opened["random"], fresh=True)
        elif opened is not None and "first" in opened:
            first = opened["first"]

            def before_first() -> None:
                set_random_state(first["random"])
                put_states(self.generators, first["generators"])

            indices.before_first = before_first
        iterator: Iterator[Any] = iter(loader)
        if self.own_iteration:
            return _after(iterator, taken)
        indices.start()
        return iterator

    def _reopen_others(self, state: dict[str, Any], taken: int) -> Iterator[Any]:
        if self.stateful_dataset and "dataset" in state:
            if state["ended"]:
                return iter(())
            self.loader.dataset.load_state_dict(state["dataset"])
            self._reading = iter(self.loader)
            return iter(self._reading)
        return _after(iter(self.loader), taken)

    def _wrapped(self, epoch: int, always: bool = False) -> DataLoader[Any]:
        """A shallow copy of the loader, of its class, whose sampler is ours for this epoch and whose dataset is seeded."""
        assert self.opened is not None or always
        seed = None
        if self.seeds_by_position:
            opened = self.opened or {"random": random_state(), "generators": {}}
            seed = epoch_seed(opened["random"], opened["generators"], epoch)
        keep = 0 if self.repeatable else self.workers * (self.loader.prefetch_factor or 2) + 2
        indices = Indices(self.sampler, batches=self.batches, seed=seed, keep=keep)
        self.indices = indices
        loader = self._copy
        if loader is None:
            loader = copy.copy(self.loader)
            loader.__dict__["_iterator"] = None
            if self.seeds_by_position:
                loader.__dict__["dataset"] = SeededDataset(self.loader.dataset, in_process=not self.workers)
        loader.__dict__["batch_sampler" if self.batches else "sampler"] = indices
        if self._reuses_workers() and loader._iterator is not None:
            loader._iterator._index_sampler = indices  # the workers live on, and read this epoch's order
        if self.workers and loader.persistent_workers:
            self._copy = loader
        return loader

    def _reuses_workers(self) -> bool:
        return bool(self.is_torch and self.workers and self.loader.persistent_workers and self._epochs_opened > 0)

    def resumed(self) -> None:
        """There were epochs before, in a process that is gone."""
        self._epochs_opened += 1

    def close(self) -> None:
        """Let go of the workers."""
        self._copy = None
        self.indices = None

    # -- kept across a resume
    def state_dict(self, taken: int) -> dict[str, Any]:
        """Where the loader is after ``taken`` batches of the running epoch."""
        if self.stateful:
            return {"loader": self.loader.state_dict()}
        state: dict[str, Any] = {"opened": self.opened, "taken": taken}
        if self.indices is not None:
            state["indices"] = self.indices.state_dict(taken)
        if self.stateful_sampler is not None:
            state["sampler"] = self.stateful_sampler.state_dict()
        if self.stateful_dataset:
            state["dataset"] = self.loader.dataset.state_dict()
            # a short last batch has ended the dataset's iterator, and with it perhaps reset its state
            state["ended"] = getattr(getattr(self._reading, "_dataset_fetcher", None), "ended", False)
        return state

    def _say_what_is_not_exact(self) -> None:
        """Once, before training: what a resumed run cannot continue exactly."""
        loader = self.loader
        text = None
        if hasattr(loader, "__next__"):
            text = (
                f"The training loader is an iterator ({type(loader).__name__}): it can be read once, for one epoch, and a "
                f"resumed run cannot go on in it. Pass something that can be iterated again, such as a DataLoader."
            )
        elif self.workers and self.map_style and any(path.startswith("dataset") for path in self.generators):
            names = ", ".join(path for path in self.generators if path.startswith("dataset"))
            text = (
                f"The training dataset has random generators of its own ({names}), which each worker process copies: a resumed "
                f"run cannot continue them exactly. Draw from the global generators instead: they are seeded for every batch."
            )
        elif self.workers and self.is_torch and not self.map_style and loader.persistent_workers:
            text = (
                "The training loader reads an iterable dataset in persistent workers, whose random state goes on from epoch to "
                "epoch: a resumed run cannot continue it exactly. Set persistent_workers=False if the dataset draws at random."
            )
        if text is not None:
            warnings.warn(text, LeydenWarning, stacklevel=2)


def _after(iterator: Iterator[Any], taken: int) -> Iterator[Any]:
    """``iterator``, after so many of its batches."""
    for _ in range(taken):
        next(iterator, None)
    return iterator


class Counted:
    """Counts the batches that one of several loaders gives. No generator: a StopIteration must show where it came from."""

    def __init__(self, position: Position, number: int, iterator: Iterator[Any]) -> None:
        self.position, self.number, self.iterator = position, number, iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self.iterator)
        self.position.taken[self.number] += 1
        return batch


class Position:
    """The position in what trains: one loader, or several read side by side."""

    def __init__(self, loader: Any) -> None:
        self.combined = loader if isinstance(loader, CombinedLoader) else None
        leaves = loader.flattened if isinstance(loader, CombinedLoader) else [loader]
        self.leaves = [LoaderPosition(leaf, beside_others=self.combined is not None) for leaf in leaves]
        self.taken = [0] * len(self.leaves)  # batches of each loader in its running pass, where there are several
        self.index = 0
        self.finished: list[bool] = []
        self.ahead: dict[str, Any] | None = None  # where everything stood before the batch that was fetched ahead

    def resumed(self) -> None:
        """The run goes on at an epoch's start: there were epochs before it."""
        for leaf in self.leaves:
            leaf.resumed()

    @property
    def fetches_ahead(self) -> bool:
        return all(leaf.fetches_ahead for leaf in self.leaves)

    @property
    def draws_in_process(self) -> bool:
        """Whether reading a batch may draw from this process's generators."""
        return any(not leaf.workers for leaf in self.leaves)

    def open(self, epoch: int) -> Iterator[Any]:
        """Batches from the epoch's start."""
        self.ahead = None
        if self.combined is None:
            return self.leaves[0].open(epoch)
        self.taken = [0] * len(self.leaves)
        self.index = 0
        self.finished = [False] * len(self.leaves)
        return self._side_by_side([None] * len(self.leaves), epoch)

    def reopen(self, state: dict[str, Any], epoch: int, taken: int) -> Iterator[Any]:
        """Batches from number ``taken`` on, of the epoch in which ``state`` was taken."""
        self.ahead = state.get("ahead")
        leaves = state.get("leaves") or [{} for _ in self.leaves]
        if self.combined is None:
            iterator = self.leaves[0].reopen(leaves[0], taken)
        else:
            iterator = self._reopen_combined(state, leaves, epoch, taken)
        if self.ahead is None or self.ahead.get("random") is None:
            return iterator
        now, current = random_state(), self._generator_states()
        self._put(self.ahead["random"], self.ahead["generators"])
        first = list(itertools.islice(iterator, 1))  # batch `taken` was fetched before the cut
        self._put(now, current)
        return itertools.chain(first, iterator)

    def _reopen_combined(self, state: dict[str, Any], leaves: list[dict[str, Any]], epoch: int, taken: int) -> Iterator[Any]:
        assert self.combined is not None
        self.index = taken
        self.taken = list(state.get("taken") or self._counted(taken))
        self.finished = list(state.get("finished") or [False] * len(self.leaves))
        one_by_one = self.combined.mode == "sequential"
        iterators: list[Iterator[Any] | None] = []
        for leaf, part, count, over in zip(self.leaves, leaves, self.taken, self.finished, strict=True):
            unread = one_by_one and (over or count == 0)
            iterators.append(None if unread else leaf.reopen(part, count))
        if one_by_one:
            self.index = next((count for count, over in zip(self.taken, self.finished, strict=True) if not over), 0)
        return self._side_by_side(iterators, epoch)

    def _counted(self, taken: int) -> list[int]:
        lengths = [length_of(leaf.loader) for leaf in self.leaves]
        return [taken if not length else taken % length or length for length in lengths]

    def _side_by_side(self, iterators: list[Iterator[Any] | None], epoch: int) -> Iterator[Any]:
        """What :class:`CombinedLoader` gives, with every loader's position known."""
        assert self.combined is not None
        reader = copy.copy(self.combined)

        def opener(position: int) -> Iterator[Any]:
            self.taken[position] = 0
            return Counted(self, position, self.leaves[position].open(epoch))

        begun: list[Iterator[Any] | None] = [
            None if iterator is None else Counted(self, position, iterator) for position, iterator in enumerate(iterators)
        ]
        return reader.read(opener, begun, self.finished, self.index)

    def note_fetch(self) -> None:
        """A batch is about to be fetched ahead: remember where the generators and the loaders stand."""
        self.ahead = {"random": None, "generators": None, "taken": list(self.taken), "finished": list(self.finished)}
        if self.draws_in_process:
            self.ahead.update(random=random_state(), generators=self._generator_states())

    def _generator_states(self) -> list[dict[str, Any]]:
        return [states_of(leaf.generators) for leaf in self.leaves]

    def _put(self, random: dict[str, Any], generators: list[dict[str, Any]]) -> None:
        set_random_state(random)
        for leaf, states in zip(self.leaves, generators, strict=True):
            put_states(leaf.generators, states)

    def close(self) -> None:
        """Let go of the workers."""
        for leaf in self.leaves:
            leaf.close()

    def state_dict(self, taken: int) -> dict[str, Any]:
        """Where the data is after ``taken`` batches of the running epoch."""
        places = self.ahead or {"taken": list(self.taken), "finished": list(self.finished)}
        counts = [taken] if self.combined is None else places["taken"]
        state: dict[str, Any] = {
            "leaves": [leaf.state_dict(count) for leaf, count in zip(self.leaves, counts, strict=True)],
            "ahead": self.ahead,
        }
        if self.combined is not None:
            state.update(taken=places["taken"], finished=places["finished"])
        return state
