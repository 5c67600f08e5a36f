"""The position in one loader: opened at an epoch's start, or at the batch where a run was cut."""

from __future__ import annotations

import copy
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import torch
from torch.utils.data import BatchSampler, DataLoader, default_collate, default_convert
from torch.utils.data.distributed import DistributedSampler

from leyden.checkpoint.random_state import preserved_random_state, random_state, set_random_state
from leyden.data.agreed import Stream, advanced
from leyden.data.carried import Carried
from leyden.data.generators import generators_in, kept, put_states, states_of
from leyden.data.indices import Indices, is_fixed, is_repeatable
from leyden.data.reading import reads_map_style
from leyden.data.seeded import SeededDataset, epoch_seed
from leyden.data.settings import Stretches, left_of, settings_of, stretches_for
from leyden.data.share import ALONE, Share
from leyden.data.whole_batches import by_whole_batches
from leyden.devices.seed import WORKERS_VARIABLE
from leyden.errors import LeydenWarning, Unsupported, warn_user
from leyden.metrics.batch_size import SampleCount

_IN_WORKERS = ("dataset", "collate_fn", "worker_init_fn")  # where there are workers, they call these


def is_stateful(part: Any) -> bool:
    """Whether ``part`` can tell its state and take it back."""
    return callable(getattr(part, "state_dict", None)) and callable(getattr(part, "load_state_dict", None))


def stateful_inside(dataset: Any) -> Any:
    """The dataset that tells its state: this one, or the one below a ``Subset`` and the like; ``None`` where none does."""
    while dataset is not None and not is_stateful(dataset):
        dataset = getattr(dataset, "dataset", None)
    return dataset


class Place(NamedTuple):
    """A point in one pass over a loader: how that pass was opened, what gave its order, and how many batches were taken."""

    opened: dict[str, Any] | None
    indices: Indices | None
    taken: int


class LoaderPosition:
    """The position in one loader. The user's loader is neither rebuilt nor changed: a shallow copy is read where need be.

    Args:
        loader: a DataLoader, or anything that can be iterated for batches.
        beside_others: other loaders are opened and read between this one's opening and its first batch.
        training: whether random augmentation is seeded by the batch's position. Evaluation reads the loader as it is, unless a
            share or the indices are asked for.
        share: which of the samples are this process's own.
        indices: remember the indices of the samples in the newest batches.

    Raises :class:`Unsupported` where several processes share a loader of which only its own code knows what it reads.
    """

    def __init__(
        self,
        loader: Any,
        beside_others: bool = False,
        *,
        training: bool = True,
        share: Share = ALONE,
        indices: bool = False,
    ) -> None:
        self.loader = loader = in_order(loader)
        self.beside_others = beside_others  # their draws fall between this loader's opening and its first batch
        self.training = training
        by_sampler = isinstance(loader, DataLoader) and reads_map_style(loader)
        self.share = ALONE if by_sampler and is_shared_out(loader) else share
        if self.share.world > 1 and not by_sampler:
            raise Unsupported(_why_not_shared(loader, share))
        indices = indices and by_sampler and type(loader).__iter__ is DataLoader.__iter__
        self.knows_indices = indices  # elsewhere a batch need not be the one that the sampler's next indices made
        asked = self.share.world > 1 or indices
        # What random augmentation draws in workers is in no loader's state. It is seeded here, where a sampler decides.
        by_sampler = by_sampler and (asked or (loader.num_workers > 0 and not is_stateful(loader.dataset)))
        self.stateful = is_stateful(loader) and not by_sampler
        self.is_torch = isinstance(loader, DataLoader) and not self.stateful
        self.map_style = self.is_torch and reads_map_style(loader)
        self.own_iteration = self.is_torch and type(loader).__iter__ is not DataLoader.__iter__
        self.workers = loader.num_workers if self.is_torch else 0
        self.stateful_dataset = self.is_torch and not self.map_style and not self.workers and is_stateful(loader.dataset)
        # a map-style dataset that counts what is asked of it, for a curriculum: known where it is asked in this process
        self.told_dataset = stateful_inside(loader.dataset) if self.map_style and not self.workers else None
        self.batches = self.is_torch and loader.batch_sampler is not None
        self.sampler: Any = (loader.batch_sampler if self.batches else loader.sampler) if self.map_style else None
        self.stateful_sampler = self._find_stateful_sampler()
        self.repeatable = self.map_style and is_repeatable(self.sampler)
        streams = self.is_torch and not self.map_style and not self.own_iteration and not self.workers
        self._notes_sizes = streams and loader.batch_size is not None and not _is_of_torch(loader.collate_fn)
        self._sizes = NotedSizes(None, 0)
        self.generators = generators_in(loader)
        self.draws_order = self.map_style and self.share.world > 1 and not is_fixed(self.sampler)
        self.of_order = self._find_generators_of_order() if self.draws_order else {}
        self.stream: Stream | None = None  # from which the order of the running pass is drawn, where processes share it
        own = self.stateful_sampler or (loader.dataset if self.stateful_dataset else None)
        self.carried = Carried(None if self.stateful else loader, own, dataset=not self.workers)
        self.opened: dict[str, Any] | None = None  # random states before the running epoch was opened
        self._reading: Any = None  # the running iterator, where the dataset keeps its own state
        self.indices: Indices | None = None
        self._copy: DataLoader[Any] | None = None
        self._epochs_opened = 0
        self.stretches: Stretches = ()  # of the running pass, where its batch size was changed on the way
        self.seeds_by_position = training and self.map_style and (self.workers > 0 or os.environ.get(WORKERS_VARIABLE) == "1")
        self._is_wrapped = self.map_style and (
            asked or beside_others or (training and (not self.repeatable or self.seeds_by_position))
        )
        # Evaluation's workers draw what the dataset draws in a row that starts with the pass: only reading again repeats it.
        self._rereads = self.own_iteration or (not training and self.workers > 0)
        if training:
            self._say_what_is_not_exact()

    def _find_stateful_sampler(self) -> Any:
        if not self.map_style or self.workers:
            return None
        inner = getattr(self.sampler, "sampler", None)
        return next((sampler for sampler in (self.sampler, inner) if sampler is not None and is_stateful(sampler)), None)

    def _find_generators_of_order(self) -> dict[str, Any]:
        """The sampler's own random generators. The dataset's are each process's own."""
        of_dataset = {id(generator) for generator in generators_in(self.loader.dataset).values()}
        sampler = getattr(self.sampler, "sampler", self.sampler)
        of_dataset.discard(id(getattr(sampler, "generator", None)))
        found = generators_in(self.sampler)
        return {path: generator for path, generator in found.items() if id(generator) not in of_dataset}

    def agree(self, random: Mapping[str, Any], states: Mapping[str, Any], number: int) -> None:
        """The next pass is drawn from these states, as the first process has them. The loader is number ``number`` of several."""
        put_states(self.of_order, states)
        draws_seed = self.loader.generator is None and (not self._reuses_workers() or self._draws_when_continued)
        self.stream = Stream(advanced(random, number + draws_seed))

    @property
    def keeps_state(self) -> bool:
        """Whether a part of the loader tells its own state, which is the state after all that was read of it."""
        return bool(self.stateful or self.stateful_dataset or self.stateful_sampler is not None)

    @property
    def tells_state(self) -> bool:
        """Whether :meth:`own_state` tells anything."""
        return self.keeps_state or self.told_dataset is not None

    @property
    def repeats(self) -> bool:
        """Whether the whole order is drawn at the beginning, so that how much of it was drawn need not be known."""
        return self.repeatable and not self.keeps_state

    @property
    def fetches_ahead(self) -> bool:
        """Whether a batch may be fetched ahead; what keeps its own state would be ahead with it."""
        return not (self.stateful or self.stateful_dataset)

    # -- as this process sees it
    def seen_with(self, share: Share) -> Any:
        """The loader as a process with ``share`` sees it: it tells the length of what that process reads."""
        if self.share.world == 1 and not self.stretches:
            return self.loader
        return self._put_sampler(copy.copy(self.loader), self._indices(None, share))

    def counter(self) -> Callable[[int, bool], SampleCount | None]:
        """For one pass: of how many samples the loader made batch ``index``, and whether it is sure of that.

        It is told whether that batch is the last. The answer is ``None`` where the loader does not know.
        """
        loader = self.loader
        if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__ or loader.batch_sampler is None:
            return unknown
        sure = _is_of_torch(loader.collate_fn) and not hasattr(loader.dataset, "__getitems__")
        if not reads_map_style(loader):
            if self._notes_sizes:
                return lambda index, is_last: self._sizes.get(index)
            if sure or not loader.batch_size:
                return unknown
            most = SampleCount(loader.batch_size, most=True)  # each worker's last batch may be short, and comes anywhere
            return lambda index, is_last: most
        if type(loader.batch_sampler) is not BatchSampler:
            return lambda index, is_last: self._drawn(index, sure)
        batching: Any = loader.batch_sampler  # where it was given, the loader has no batch size and another sampler
        size = batching.batch_size
        known = isinstance(batching.sampler, Sized) and not self.share.batches
        if not known:
            return unknown
        whole: int = len(batching.sampler)
        own, full = self.share.size(whole), SampleCount(size, sure and size > 1, lone=size == 1)

        def count(index: int, is_last: bool) -> SampleCount:
            done, rest = left_of(self.stretches, whole, self.share) if self.stretches else (0, own)
            left = rest - (index - done) * size
            return full if left >= size else SampleCount(left, sure)

        return count

    def _drawn(self, index: int, sure: bool) -> SampleCount | None:
        size = None if self.indices is None else self.indices.size_of(index)
        return None if size is None else SampleCount(size, sure)

    @property
    def _batches_samples(self) -> bool:
        """Whether the batches are made by PyTorch from a sampler's samples, and are no batches of the user's own."""
        return type(self.loader.batch_sampler) is BatchSampler and self.loader.batch_size is not None

    def _indices(self, seed: int | None, share: Share) -> Indices:
        # one more for a state taken with a batch in hand, one for a batch fetched ahead, one for the checksum before it, one for
        # what the sampler is asked for at its end
        keep = self.workers * (self.loader.prefetch_factor or 2) + 4 if self.knows_indices or not self.repeatable else 0
        samples = self._batches_samples
        return Indices(
            self.sampler,
            batches=self.batches,
            seed=seed,
            keep=keep,
            share=share,
            samples=samples and not share.batches,
            stretches=self.stretches,
            stream=self.stream,
        )

    def _put_sampler(self, loader: DataLoader[Any], indices: Indices) -> DataLoader[Any]:
        loader.__dict__["batch_sampler" if self.batches else "sampler"] = indices
        return loader

    # -- opening
    def open(self, epoch: int) -> Iterator[Any]:
        """An iterator at the epoch's start."""
        self.forget()
        self.opened = {**_draws(self.generators), "epoch": epoch}
        self.opened["carried"] = self.carried.state_dict()
        self.opened["continued"] = self._reuses_workers()
        if self.stream is not None and self.draws_order:
            self.stream = Stream(self.stream.state)  # a pass that begins again on the way goes on behind the one before
            self.opened["agreed"] = self.stream.state
        else:
            self.stream = None  # of an epoch that several processes began, and this one alone went on with
        self._epochs_opened += 1
        if self.stateful_dataset:
            self._reading = iter(self._stream(0))
            return iter(self._reading)
        if not self._is_wrapped and self._copy is None:
            return by_whole_batches(iter(self._stream(0)))
        loader = self._wrapped(epoch)
        assert self.indices is not None
        if self.opened["continued"]:
            self._begin_as_continued(self.indices, self.opened["random"], fresh=loader._iterator is None)
        elif self.beside_others:
            self._note_first_index(self.indices, self.opened)
        return by_whole_batches(iter(loader))

    def note_first_draw(self) -> None:
        """The first batch of the pass is about to be read: others may have drawn since it was opened."""
        if self.opened is None or "first" in self.opened or self.stateful or self.indices is not None:
            return  # our sampler knows the moment itself
        self.opened["first"] = _draws(self.generators)

    # The functions below hold no reference to `self`: in a circle, worker processes would live until the garbage is collected.
    def _note_first_index(self, indices: Indices, opened: dict[str, Any]) -> None:
        generators = self.generators

        def before_first() -> None:
            opened["first"] = _draws(generators)

        indices.before_first = before_first

    def _begin_as_continued(self, indices: Indices, random: dict[str, Any], fresh: bool) -> None:
        """Workers that live on draw no base seed, so the sampler's draws come first; new workers in their place do draw it."""
        generator = self.loader.generator
        # the number of workers must not matter: without workers a base seed is drawn
        draws = self._draws_when_continued

        def before_first() -> None:
            if fresh:
                set_random_state(random)
            if draws:
                torch.empty((), dtype=torch.int64).random_(generator=generator)

        indices.before_first = before_first

    @property
    def _draws_when_continued(self) -> bool:
        return self.seeds_by_position and os.environ.get(WORKERS_VARIABLE) == "1"

    def reopen(self, state: dict[str, Any], taken: int, noted: bool = False) -> Iterator[Any]:
        """An iterator whose next batch is number ``taken`` of the epoch that ``state`` was taken in.

        With ``noted`` it is read next with the random state that was noted before it. The global generators are left as they
        are: what is drawn to find the place is not seen outside.
        """
        opened = state.get("opened")
        self.opened = {} if opened is None and self.stateful else opened
        self._epochs_opened += 1
        if self.stateful and "loader" in state:
            with preserved_random_state():  # the loader's own generators stand where its state puts them
                self.loader.load_state_dict(state["loader"])
                return iter(self.loader)
        fetched = state.get("fetched", 0)  # after those that were taken; what was drawn for them is in none of the states
        if self.repeats and taken == 0 and not noted:
            fetched = 1  # the order is drawn only when the first is asked for
        plain = self._rereads and not self._is_wrapped and not (opened and opened["continued"])
        with preserved_random_state(), kept(self.generators):
            if opened:
                _put_draws(self.generators, opened)
                self.carried.load_state_dict(opened.get("carried"))
            map_style = self.map_style and not plain
            iterator = (
                self._reopen_map_style(state, taken, fetched, noted) if map_style else self._reopen_others(state, taken, fetched)
            )
            self._tell_dataset(state)
        return iterator

    def _tell_dataset(self, state: Mapping[str, Any]) -> None:
        if self.told_dataset is not None and "told" in state:
            self.told_dataset.load_state_dict(state["told"])

    def _reopen_map_style(self, state: dict[str, Any], taken: int, fetched: int, noted: bool) -> Iterator[Any]:
        opened = self.opened
        self.stream = Stream(opened["agreed"]) if opened and "agreed" in opened else None
        loader = self._wrapped(0 if opened is None else opened["epoch"], always=True)
        indices = self.indices
        assert indices is not None
        stands_there = self.stateful_sampler is not None and "sampler" in state
        if not self._rereads:  # what a loader of another iteration yields need not be what the sampler gives
            if stands_there:
                self.stateful_sampler.load_state_dict(state["sampler"])
            indices.continue_from(state.get("indices") or {}, taken, stands_there)
            indices.replays = noted and not self.workers
        if opened is not None and opened["continued"]:
            self._begin_as_continued(indices, opened["random"], fresh=True)
        elif opened is not None and "first" in opened:
            first, generators = opened["first"], self.generators

            indices.before_first = lambda: _put_draws(generators, first)
        iterator: Iterator[Any] = by_whole_batches(iter(loader))
        if self._rereads:
            return _after(iterator, taken, fetched)
        indices.start(draw=0 if stands_there else fetched)
        return iterator

    def _reopen_others(self, state: dict[str, Any], taken: int, fetched: int) -> Iterator[Any]:
        if self.stateful_dataset and "dataset" in state:
            if state["ended"]:
                return iter(())
            self.loader.dataset.load_state_dict(state["dataset"])
            self._reading = iter(self._stream(taken))
            return iter(self._reading)
        iterator = by_whole_batches(iter(self._stream(0)))
        if self.opened and "first" in self.opened:
            _put_draws(self.generators, self.opened["first"])
        return _after(iterator, taken, fetched)

    def _stream(self, first: int) -> Any:
        """The loader as it is, or one that notes how many samples it makes batches of, the next being number ``first``."""
        if not self._notes_sizes:
            return self.loader
        loader = copy.copy(self.loader)
        loader.__dict__["collate_fn"] = self._sizes = NotedSizes(self.loader.collate_fn, first)
        return loader

    def _wrapped(self, epoch: int, always: bool = False) -> DataLoader[Any]:
        """A shallow copy of the loader, of its class, whose sampler is ours for this epoch and whose dataset is seeded."""
        assert self.opened is not None or always
        seed = None
        if self.seeds_by_position:
            opened = self.opened or {"random": random_state(), "generators": {}}
            seed = epoch_seed(opened["random"], opened["generators"], epoch)
        indices = self.indices = self._indices(seed, self.share)
        loader = self._copy
        if loader is None:
            loader = copy.copy(self.loader)
            loader.__dict__["_iterator"] = None
            if self.seeds_by_position:
                loader.__dict__["dataset"] = SeededDataset(self.loader.dataset, in_process=not self.workers)
        self._put_sampler(loader, indices)
        if self._reuses_workers() and loader._iterator is not None:
            loader._iterator._index_sampler = indices  # the workers live on, and read this epoch's order
        if self.workers and loader.persistent_workers:
            self._copy = loader
        return loader

    def _reuses_workers(self) -> bool:
        if not self.is_torch or not self.workers or not self.loader.persistent_workers:
            return False
        if self.training:
            return self._epochs_opened > 0
        return (self.loader if self._copy is None else self._copy)._iterator is not None

    def forget(self) -> None:
        """A new pass is to begin: where the last one stood does not matter any more."""
        self.opened = self.indices = None
        self.stretches = ()

    def fit_to(self, state: dict[str, Any], taken: int, name: str) -> bool:
        """The pass was cut after ``taken`` batches: whether others than the loader's, of another size or number, come before.

        Raises :class:`CheckpointMismatch` where it cannot go on with this loader.
        """
        then = state.get("settings") or {}
        state.setdefault("stretches", [])
        if not taken or not then:
            return False
        plain = self.map_style and self._batches_samples and not self._rereads and self.stateful_sampler is None
        resizable = plain and not self.beside_others and self.training
        world = self.share.world
        had = tuple((batches, size, *(of or [world])) for batches, size, *of in state["stretches"])
        worlds = state.get("world", world), world
        self.stretches = stretches_for(then, settings_of(self.loader), had, taken, resizable, name, worlds)
        if len(self.stretches) > len(state["stretches"]) and state.get("indices"):
            state["indices"] = {**state["indices"], "waiting": [], "over": False}  # those batches are of the size before
        return bool(self.stretches)

    def restore(self, state: Mapping[str, Any]) -> None:
        """A run goes on from ``state``: samplers and datasets that carry something from pass to pass go on with it."""
        self.carried.load_state_dict(state.get("carried"))
        self._tell_dataset(state)

    def resumed(self, state: Mapping[str, Any]) -> None:
        """There were epochs before, in a process that is gone; ``state`` is from there."""
        self._epochs_opened += 1
        self._tell_dataset(state)
        if self.stateful_sampler is not None and "sampler" in state:
            self.stateful_sampler.load_state_dict(state["sampler"])

    def close(self) -> None:
        """Let go of the workers. Where the loader stood is still known."""
        self._copy = None
        if self.indices is not None:
            self.indices.close()

    # -- kept across a resume
    def place(self, taken: int) -> Place:
        """The point after ``taken`` batches of the running pass."""
        return Place(self.opened, self.indices, taken)

    def own_state(self) -> dict[str, Any]:
        """What the parts tell that keep their own state: where they are after all that was read."""
        if self.stateful:
            return {"loader": self.loader.state_dict()}
        if self.stateful_sampler is not None and self.indices is None:
            return {"sampler": self.stateful_sampler.state_dict(), **self._told()}
        if not self.stateful_dataset:
            return self._told()
        # a short last batch has ended the dataset's iterator, and with it perhaps reset its state
        ended = getattr(getattr(self._reading, "_dataset_fetcher", None), "ended", False)
        return {"dataset": self.loader.dataset.state_dict(), "ended": ended}

    def _told(self) -> dict[str, Any]:
        return {} if self.told_dataset is None else {"told": self.told_dataset.state_dict()}

    def state_dict(self, place: Place, own: dict[str, Any] | None, fetched: int) -> dict[str, Any]:
        """What :meth:`reopen` needs to go on at ``place``, after which ``fetched`` batches more were read.

        ``own`` is what :meth:`own_state` told there; where it is not known the pass is read again up to that place.
        """
        state: dict[str, Any] = {"opened": place.opened, "taken": place.taken, "fetched": fetched}
        state["carried"] = self.carried.state_dict()
        state["world"] = self.share.world
        state["settings"], state["stretches"] = settings_of(self.loader), [list(each) for each in self.stretches]
        if place.indices is not None:
            state["indices"] = place.indices.state_dict(place.taken)
            if self.stateful_sampler is not None and place.indices is self.indices:
                state["sampler"] = self.stateful_sampler.state_dict()  # what it gave and was not used is in `indices`
        return {**state, **(self._told() if own is None else own)}

    def _say_what_is_not_exact(self) -> None:
        """Once, before training: what a resumed run cannot continue exactly."""
        loader = self.loader
        text = None
        if hasattr(loader, "__next__"):
            text = (
                f"The training loader is an iterator ({type(loader).__name__}): it can be read once, for one epoch, and a "
                f"resumed run cannot go on in it. Pass something that can be iterated again, such as a DataLoader."
            )
        elif self.workers and self.map_style and any(path.startswith(_IN_WORKERS) for path in self.generators):
            names = ", ".join(path for path in self.generators if path.startswith(_IN_WORKERS))
            text = (
                f"The training data has random generators of its own ({names}), which each worker process copies: a resumed "
                f"run cannot continue them exactly. Draw from the global generators instead: they are seeded for every batch."
            )
        elif self.workers and self.is_torch and not self.map_style and loader.persistent_workers:
            text = (
                "The training loader reads an iterable dataset in persistent workers, whose random state goes on from epoch to "
                "epoch: a resumed run cannot continue it exactly. Set persistent_workers=False if the dataset draws at random."
            )
        if text is not None:
            warn_user(text, LeydenWarning)


def _draws(generators: Mapping[str, Any]) -> dict[str, Any]:
    """Where the global generators and these stand: what is drawn next."""
    return {"random": random_state(), "generators": states_of(generators)}


def _put_draws(generators: Mapping[str, Any], draws: Mapping[str, Any]) -> None:
    set_random_state(draws["random"])
    put_states(generators, draws["generators"])


def _after(iterator: Iterator[Any], taken: int, fetched: int) -> Iterator[Any]:
    """``iterator``, after ``taken`` of its batches; the next ``fetched`` are fetched now, and given later."""
    for _ in range(taken):
        next(iterator, None)
    ready = list(itertools.islice(iterator, fetched))
    return itertools.chain(ready, iterator) if ready else iterator


class NotedSizes:
    """A stream's collate function, which notes of how many samples it made the newest batches."""

    def __init__(self, collate: Any, first: int) -> None:
        self.collate, self.next = collate, first
        self.newest: deque[tuple[int, int]] = deque(maxlen=4)

    def __call__(self, samples: Any) -> Any:
        self.newest.append((self.next, len(samples)))
        self.next += 1
        return self.collate(samples)

    def get(self, number: int) -> SampleCount | None:
        return next((SampleCount(size) for of, size in self.newest if of == number), None)


def _is_of_torch(collate: Any) -> bool:
    """Whether a collate function neither drops a sample nor makes two of one, and stacks them along the first dimension."""
    return collate in (default_collate, default_convert)


def unknown(index: int, is_last: bool) -> None:
    """Of how many samples a batch is, where its loader does not know."""


def in_order(loader: Any) -> Any:
    """A loader that gives batches in the order in which they were asked for: which samples they hold is not known in another."""
    if not isinstance(loader, DataLoader) or getattr(loader, "in_order", True) or not loader.num_workers:
        return loader
    warn_user(
        f"A {type(loader).__name__} has in_order=False: it would give batches in the order in which its workers happen to be "
        f"done, and no run could be repeated, or be resumed at the right sample. It is read in order.",
        LeydenWarning,
    )
    plain = copy.copy(loader)
    plain.__dict__.update(in_order=True, _iterator=None)
    return plain


def is_shared_out(loader: DataLoader[Any]) -> bool:
    """Whether the user's own sampler gives each process its share already."""
    samplers = (loader.sampler, getattr(loader.batch_sampler, "sampler", None))
    return any(isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1 for sampler in samplers)


def _why_not_shared(loader: Any, share: Share) -> str:
    iterable = isinstance(loader, DataLoader)
    kind = f"reads an iterable dataset ({type(loader.dataset).__name__})" if iterable else "is no DataLoader"
    return (
        f"{type(loader).__name__} {kind}, and {share.world} processes share its data: which samples are whose cannot be told "
        f"from outside, and each process would read all of them. Use a map-style dataset in a DataLoader; or yield only this "
        f"process's part (every world_size-th sample, from global_rank on) and pass Trainer(use_distributed_sampler=False)."
    )
