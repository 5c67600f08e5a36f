"""Reads one loader, or several side by side, and knows at every batch where it is in each."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any

from torch.utils.data import BatchSampler, DataLoader

from leyden.checkpoint.random_state import Drawn, RandomStates, preserved_random_state, set_random_state
from leyden.data.agreed import host_state
from leyden.data.combined import CombinedLoader
from leyden.data.generators import as_plain_states, kept, put_states, raw_states, states_of
from leyden.data.position import LoaderPosition, Place, in_order, is_stateful, unknown
from leyden.data.reading import length_of, set_epoch
from leyden.data.share import ALONE, Share
from leyden.errors import CheckpointMismatch
from leyden.metrics.batch_size import SampleCount


class Reader:
    """Reads one loader, or those of a :class:`CombinedLoader`; arguments as for :class:`LoaderPosition`."""

    def __init__(self, loader: Any, *, training: bool = True, share: Share = ALONE, indices: bool = False) -> None:
        if isinstance(loader, CombinedLoader):
            loader = copy.copy(loader)
            loader.flattened = [in_order(leaf) for leaf in loader.flattened]
        self.loader = loader
        self.share = share
        self.combined = loader if isinstance(loader, CombinedLoader) else None
        several = self.combined is not None
        indices = not several and (indices or makes_own_batches(loader))
        self.leaves = [
            LoaderPosition(leaf, several, training=training, share=share, indices=indices)
            for leaf in (loader.flattened if isinstance(loader, CombinedLoader) else [loader])
        ]
        self.epoch: int | None = None  # the one that is read, or was last
        self.taken = [0] * len(self.leaves)  # batches of each loader in its running pass, where there are several
        self.finished: list[bool] = []
        self.fetches: deque[Fetch] = deque(maxlen=2)  # the newest: a batch that is in hand, and those fetched ahead of it
        self.ended: int | None = None  # the number of batches, once reading found the end
        self.random = RandomStates()
        # what a fetch has to note, found once: it is asked at every batch
        self._tell_own = any(leaf.tells_state for leaf in self.leaves)
        self._draw_here = any(not leaf.workers for leaf in self.leaves)
        self._own_generators = any(leaf.generators for leaf in self.leaves)
        self._untold: list[dict[str, Any]] = [{} for _ in self.leaves]

    @property
    def is_shared(self) -> bool:
        """Whether each process reads its share of what the loaders give."""
        return all(leaf.share.world > 1 for leaf in self.leaves)

    @property
    def fetches_ahead(self) -> bool:
        return all(leaf.fetches_ahead for leaf in self.leaves)

    def length(self, share: Share) -> int | None:
        """Batches that a process with ``share`` reads, or ``None`` where the loader does not say."""
        seen = [leaf.seen_with(share) for leaf in self.leaves]
        if self.combined is None:
            return length_of(seen[0])
        combined = copy.copy(self.combined)
        combined.flattened = seen
        return length_of(combined)

    def seen(self) -> Any:
        """The loader as this process sees it, to be read under its share."""
        return self.leaves[0].seen_with(self.leaves[0].share) if self.combined is None else self.combined

    def counter(self) -> Callable[[int, bool], SampleCount | None]:
        """Of how many samples batches are, by the loader's own settings: see :meth:`LoaderPosition.counter`."""
        return unknown if self.combined is not None else self.leaves[0].counter()

    def indices_of(self, number: int) -> list[Any] | None:
        """The indices of the samples in batch ``number``, one of the newest; ``None`` where they are not known."""
        leaf = self.leaves[0]
        return leaf.indices.of(number) if leaf.knows_indices and leaf.indices is not None else None

    def is_like(self, state: dict[str, Any]) -> bool:
        """Whether ``state`` is of as many loaders."""
        return len(state.get("leaves") or self.leaves) == len(self.leaves)

    def fit_to(self, state: dict[str, Any], taken: int, name: str) -> bool:
        """The epoch was cut after ``taken`` batches: whether it goes on with batches of another size than the loader's.

        Raises :class:`CheckpointMismatch` where it cannot go on with these loaders.
        """
        leaves, mode = state.get("leaves"), None if self.combined is None else self.combined.mode
        if not leaves:
            return False
        then, now = (len(leaves), state.get("mode", mode)), (len(self.leaves), mode)
        if then != now and taken:
            words = [f"{count} loaders ({mode})" if mode else f"{count} loader" for count, mode in (then, now)]
            raise CheckpointMismatch(
                f"The run was cut inside an epoch, after {taken} batches of {name}, and cannot go on there with other loaders: "
                f"{words[0]} then, {words[1]} now. Finish the epoch with those that it had, or go on from a checkpoint of an "
                f"epoch's end."
            )
        parts = zip(self.leaves, leaves, strict=False)
        resized = [leaf.fit_to(part, taken if mode is None else part.get("taken", 0), name) for leaf, part in parts]
        return any(resized)

    # -- reading
    def remember(self, fetches: int) -> None:
        """So many batches may be in hand, or fetched ahead, when a state is taken."""
        if self.fetches.maxlen != fetches:
            self.fetches = deque(self.fetches, maxlen=fetches)

    def open(self, epoch: int, draws: bool = False) -> Iterator[Any]:
        """Batches from the epoch's start. With ``draws``, each fetch notes the random state before it: see :meth:`state_dict`."""
        self._begin(epoch)
        self.agree()
        if self.combined is None:
            return self._noted(self.leaves[0].open(epoch), 0, draws)
        for leaf in self.leaves:
            leaf.forget()
        self.taken = [0] * len(self.leaves)
        self.finished = [False] * len(self.leaves)
        return self._noted(self._side_by_side([None] * len(self.leaves), epoch, 0), 0, draws)

    def agree(self) -> None:
        """Let all processes draw the order of what they share from the first one's random states. One exchange, or none."""
        leaves = [leaf for leaf in self.leaves if leaf.draws_order]
        processes = self.share.processes
        if not leaves or processes.alone:
            return
        states = [states_of(leaf.of_order) for leaf in leaves] if processes.is_first else []
        agreed = processes.broadcast({"random": host_state(), "generators": states})
        for number, (leaf, own) in enumerate(zip(leaves, agreed["generators"], strict=True)):
            leaf.agree(agreed["random"], own, number)

    def reopen(self, state: dict[str, Any], epoch: int, taken: int, draws: bool = False) -> Iterator[Any]:
        """Batches from number ``taken`` on, of the epoch in which ``state`` was taken."""
        iterator = self._reopen(state, epoch, taken, draws)
        if taken and all(leaf.training for leaf in self.leaves):
            self.restore(state)  # steps may have changed a sampler since its order was drawn, which was drawn again now
        return iterator

    def _reopen(self, state: dict[str, Any], epoch: int, taken: int, draws: bool) -> Iterator[Any]:
        self._begin(epoch)
        leaves = state.get("leaves") or [{} for _ in self.leaves]
        noted = (state.get("ahead"), state.get("then"), *state.get("further", ()))
        notes = [note for note in noted if note is not None and note.get("random") is not None]
        if self.combined is None:
            iterator = self.leaves[0].reopen(leaves[0], taken, bool(notes))
        else:
            iterator = self._reopen_combined(state, leaves, taken, bool(notes))
        if state.get("over"):
            iterator = iter(())
        if not notes:
            return self._noted(iterator, taken, draws)
        fetching = Fetching(self, iterator, taken, draws=True)
        ready: list[Any] = []
        with preserved_random_state(), contextlib.ExitStack() as stack:
            for leaf in self.leaves:
                stack.enter_context(kept(leaf.generators))
            for note in notes:  # each of these batches was fetched before the cut, and maybe the end was found
                set_random_state(note["random"])
                for leaf, states in zip(self.leaves, note["generators"], strict=True):
                    put_states(leaf.generators, states)
                ready += itertools.islice(fetching, 1)
        fetching.ready.extend(ready)
        fetching.draws = draws
        return fetching

    def _begin(self, epoch: int) -> None:
        self.epoch, self.ended = epoch, None
        self.fetches.clear()
        set_epoch([leaf.loader for leaf in self.leaves], epoch)

    def _noted(self, iterator: Iterator[Any], number: int, draws: bool) -> Iterator[Any]:
        """``iterator``, with what a state needs of each fetch noted; for one plain loader that is nothing."""
        if draws or not all(leaf.repeats for leaf in self.leaves) or self.combined is not None:
            return Fetching(self, iterator, number, draws)
        return iterator

    def _reopen_combined(self, state: dict[str, Any], leaves: list[dict[str, Any]], taken: int, noted: bool) -> Iterator[Any]:
        assert self.combined is not None
        assert self.epoch is not None
        epoch, index = self.epoch, taken
        self.taken = list(state.get("taken") or self._counted(taken))
        self.finished = list(state.get("finished") or [False] * len(self.leaves))
        one_by_one = self.combined.mode == "sequential"
        iterators: list[Iterator[Any] | None] = []
        for leaf, part, count, over in zip(self.leaves, leaves, self.taken, self.finished, strict=True):
            begun = count or (part.get("opened") or {}).get("epoch") == epoch
            iterators.append(leaf.reopen(part, count, noted) if begun and not (one_by_one and over) else None)
        if one_by_one:
            index = next((count for count, over in zip(self.taken, self.finished, strict=True) if not over), 0)
        return self._side_by_side(iterators, epoch, index)

    def _counted(self, taken: int) -> list[int]:
        lengths = [length_of(leaf.seen_with(leaf.share)) for leaf in self.leaves]
        return [taken if not length else taken % length or length for length in lengths]

    def _side_by_side(self, iterators: list[Iterator[Any] | None], epoch: int, index: int) -> Iterator[Any]:
        """What :class:`CombinedLoader` gives, with every loader's position known."""
        assert self.combined is not None
        combined = copy.copy(self.combined)

        def opener(number: int) -> Iterator[Any]:
            self.taken[number] = 0
            return Counted(self, number, self.leaves[number].open(epoch))

        begun: list[Iterator[Any] | None] = [
            None if iterator is None else Counted(self, number, iterator) for number, iterator in enumerate(iterators)
        ]
        return (batch for batch, _, _ in combined.read(opener, begun, self.finished, index))

    def restore(self, state: dict[str, Any]) -> None:
        """The run goes on from ``state``: what the loaders carry from pass to pass is put back now."""
        for leaf, part in zip(self.leaves, state.get("leaves") or [], strict=False):
            leaf.restore(part)

    def resumed(self, state: dict[str, Any]) -> None:
        """The run goes on at an epoch's start: there were epochs before it, and ``state`` is from there."""
        parts = dict(enumerate(state.get("leaves") or []))
        for number, leaf in enumerate(self.leaves):
            leaf.resumed(parts.get(number, {}))

    def close(self) -> None:
        """Let go of the workers. Where they stood is still known."""
        for leaf in self.leaves:
            leaf.close()

    # -- kept across a resume
    def places(self) -> list[Place]:
        """Where each loader stands, after all that was read of it."""
        return [leaf.place(count) for leaf, count in zip(self.leaves, self.taken, strict=True)]

    def note(self, number: int, draws: bool) -> Fetch:
        """Where everything stands before batch ``number`` is fetched."""
        fetch = Fetch(number)
        if self.combined is not None:  # one loader alone has one pass, and stands in it where the number says
            fetch.before = self.places()
            fetch.came_from, fetch.finished = list(fetch.before), list(self.finished)
        if draws:
            fetch.own = [leaf.own_state() for leaf in self.leaves] if self._tell_own else self._untold
            if self._draw_here:  # else a fetch draws nothing in this process
                fetch.random = self.random.take()
                fetch.generators = [raw_states(leaf.generators) for leaf in self.leaves] if self._own_generators else self._untold
        return fetch

    def state_dict(self, taken: int) -> dict[str, Any]:
        """Where the data is after ``taken`` batches of the running epoch.

        ``taken`` may leave out the batch in hand, the newest that was read. It is fetched again then: the same samples. What its
        dataset draws at random in this process comes out the same too where reading noted that (``draws``).
        """
        places, finished, own = self.places(), list(self.finished), None
        fetched = [0] * len(self.leaves)
        unused = [fetch for fetch in self.fetches if fetch.number >= taken]
        first = unused[0] if unused and unused[0].number == taken else None
        if first is not None and first.random is not None:
            own = first.own
            if self.combined is not None:
                places, finished = first.before, first.finished
        elif first is not None and self.combined is not None:
            # a loader that this fetch started again goes on at its new pass: starting it once more might draw another order
            places, finished = first.came_from, first.then_finished
            fetched = [max(0, now - place.taken) for now, place in zip(unused[-1].then_taken, places, strict=True)]
        elif not unused:
            own = [leaf.own_state() for leaf in self.leaves]
        if self.combined is None:
            places, fetched = [places[0]._replace(taken=taken)], [len(unused) if first is not None and not own else 0]
        parts = zip(self.leaves, places, [None] * len(places) if own is None else own, fetched, strict=True)
        state: dict[str, Any] = {
            "leaves": [leaf.state_dict(place, state, more) for leaf, place, state, more in parts],
            "ahead": None if first is None else first.as_note(),
        }
        if first is not None and len(unused) > 1:
            state["then"] = unused[1].as_note()
            if len(unused) > 2:
                state["further"] = [fetch.as_note() for fetch in unused[2:]]
        if self.ended is not None and taken >= self.ended:
            state["over"] = True
        if self.combined is not None:
            state.update(taken=[place.taken for place in places], finished=finished)
        state["mode"] = None if self.combined is None else self.combined.mode
        return state


def makes_own_batches(loader: Any) -> bool:
    """Whether a batch sampler of the user's own decides how many samples a batch has."""
    given = getattr(loader, "batch_sampler", None)
    return isinstance(loader, DataLoader) and type(given) not in (BatchSampler, NoneType) and not is_stateful(loader)


class Fetch:
    """One fetch of a batch: where everything stood before it."""

    # of several loaders side by side
    before: list[Place]
    came_from: list[Place]  # from where in each loader its part of the batch came: of a new pass, where one was started
    finished: list[bool]
    then_taken: list[int]  # after it
    then_finished: list[bool]
    # where the fetch may draw
    own: list[dict[str, Any]] | None = None
    random: Drawn | None = None
    generators: list[dict[str, Any]]

    def __init__(self, number: int) -> None:
        self.number = number

    def as_note(self) -> dict[str, Any] | None:
        if self.random is None:
            return None
        return {"random": self.random.plain(), "generators": [as_plain_states(raw) for raw in self.generators]}


class Fetching:
    """Notes each fetch. No generator: a StopIteration must show where it came from."""

    def __init__(self, reader: Reader, iterator: Iterator[Any], number: int, draws: bool) -> None:
        self.reader, self.iterator, self.number, self.draws = reader, iterator, number, draws
        self.ready: deque[Any] = deque()  # fetched and noted already

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.ready:
            return self.ready.popleft()
        reader = self.reader
        fetch = reader.note(self.number, self.draws)
        reader.fetches.append(fetch)
        try:
            batch = next(self.iterator)
        except StopIteration:
            reader.ended = self.number
            if not self.draws:
                reader.fetches.pop()
            raise
        finally:
            if reader.combined is not None:
                fetch.then_taken, fetch.then_finished = list(reader.taken), list(reader.finished)
        self.number += 1
        return batch


class Counted:
    """Counts the batches that one of several loaders gives. No generator, for the same reason."""

    def __init__(self, reader: Reader, number: int, iterator: Iterator[Any]) -> None:
        self.reader, self.number, self.iterator = reader, number, iterator

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        reader, number = self.reader, self.number
        if reader.taken[number] == 0:
            reader.leaves[number].note_first_draw()
        batch = next(self.iterator)
        reader.fetches[-1].came_from[number] = reader.leaves[number].place(reader.taken[number])
        reader.taken[number] += 1
        return batch
