"""One value of all processes: what they counted is packed, exchanged for all names at once, and read.

Three exchanges, however many names there are: a word for the names, whose shape cannot differ; what counts by its maximum,
lengths among it; and what is added. A fourth where values have to stay apart, as those that a function gets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from leyden.distributed.alike import alike
from leyden.distributed.processes import Processes
from leyden.distributed.same_tensors import UNEVEN
from leyden.errors import MetricsDiffer
from leyden.metrics.accumulators import Accumulator
from leyden.metrics.words import Combined, no_words

Key = tuple[str, str, int | None]
"""Hook, name, and the number of the loader where there are several."""


def in_order(keys: Iterable[Key]) -> list[Key]:
    """The order in which every process packs."""
    return sorted(keys, key=lambda key: (key[0], key[1], -1 if key[2] is None else key[2]))


def agree_on_names(
    processes: Processes, when: str, kinds: Mapping[Key, str], excused: Callable[[Key, str], bool], describe: Callable[[Key], Any]
) -> dict[Key, Any]:
    """See that all processes have the same names, of the same kinds, by one exchange of two words.

    Returns what ``describe`` says of names that others have and this process lacks, being ``excused``. Raises
    :class:`MetricsDiffer` on every process where one lacks a name without an excuse. ``when`` says what is over, in words.
    """
    if alike(processes, (when, [(key, kinds[key]) for key in in_order(kinds)])):
        return {}
    found = processes.gather_objects((when, {key: (kind, describe(key)) for key, kind in kinds.items()}))
    _same_place([moment for moment, _ in found])
    known = {key: (kind, said) for _, theirs in found for key, (kind, said) in theirs.items()}
    mine = {key for key in known if key not in kinds and excused(key, known[key][0])}
    forgiven: list[set[Key]] = processes.gather_objects(mine)
    _compare(when, [theirs for _, theirs in found], forgiven)
    return {key: said for key, (_, said) in known.items() if key not in kinds}


def _same_place(moments: list[str]) -> None:
    if len(set(moments)) > 1:
        there = ", ".join(f"process {rank}: {moment}" for rank, moment in enumerate(moments))
        raise MetricsDiffer(f"The processes are at different exchanges ({there}). Let all call the same in one order. {UNEVEN}")


def _compare(moment: str, names: list[dict[Key, tuple[str, Any]]], forgiven: list[set[Key]]) -> None:
    faults = []
    for key in in_order({key for theirs in names for key in theirs}):
        have = {rank: theirs[key][0] for rank, theirs in enumerate(names) if key in theirs}
        lack = [rank for rank, theirs in enumerate(names) if key not in theirs and key not in forgiven[rank]]
        hook, name, loader = key
        shown = f"{name!r} (in {hook}{'' if loader is None else f', loader {loader}'})"
        if lack:
            faults.append(f"{shown} was logged by process {_listed(have)}, and not by {_listed(lack)}")
        elif len(set(have.values())) > 1:
            kinds = ", ".join(f"{kind} on {_listed(r for r in have if have[r] == kind)}" for kind in sorted(set(have.values())))
            faults.append(f"{shown} is of several kinds: {kinds}")
    if faults:
        raise MetricsDiffer(
            f"The processes logged different metrics ({moment}): {'; '.join(faults)}. Log the same names in the same way on "
            f"every process; rank_zero_only=True keeps a value out of what is exchanged."
        )


def _listed(ranks: Iterable[int]) -> str:
    return ", ".join(map(str, ranks))


def values_of_all(processes: Processes, accumulators: Sequence[Accumulator]) -> list[Any]:
    """What the values of all processes come to, one for each accumulator: the same on every process."""
    if not accumulators:
        return []
    brought = [accumulator.shares() for accumulator in accumulators]
    words: list[int] = []
    for mine in brought:
        here = processes.rank + 1 if mine.last else 0
        words += [*map(len, mine.sums), here, len(mine.last), len(mine.listed), *mine.most]
    agreed = iter(processes.all_reduce(torch.tensor(words, dtype=torch.int64), "max").tolist())

    most: list[list[int]] = []
    added: list[tuple[Tensor, int]] = []  # what is added, and its length on all processes
    listed: list[tuple[Tensor, int]] = []
    for mine in brought:
        of_sums = list(itertools.islice(agreed, len(mine.sums)))
        highest, of_last, of_listed = itertools.islice(agreed, 3)
        most.append(list(itertools.islice(agreed, len(mine.most))))
        last = mine.last if highest == processes.rank + 1 else []  # the others add nothing to it
        added += [*zip(mine.sums, of_sums, strict=True), (torch.tensor(last, dtype=torch.int64), of_last)]
        listed.append((mine.listed, of_listed))
    sums = iter(_summed(processes, added))
    apart = _gathered(processes, listed)

    values = []
    for at, (accumulator, mine) in enumerate(zip(accumulators, brought, strict=True)):
        of_all = [next(sums) for _ in mine.sums]
        joined = accumulator.joined(Combined(most[at], of_all, next(sums).tolist(), apart[at]))
        if joined.asks is None:
            values.append(joined.value())
        else:
            values.append(processes.broadcast(joined.value() if processes.rank == joined.asks else None, joined.asks))
    return values


def _summed(processes: Processes, parts: list[tuple[Tensor, int]]) -> list[Tensor]:
    lengths = [length for _, length in parts]
    packed = torch.zeros(sum(lengths), dtype=torch.int64)
    starts = [0, *itertools.accumulate(lengths)]
    of_devices: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for start, (words, _) in zip(starts, parts, strict=False):
        of_devices.setdefault(words.device, []).append((start, words))
    for found in of_devices.values():
        # one transfer for each device, and not one for each name
        together = torch.cat([words for _, words in found]).cpu().split([len(words) for _, words in found])
        for (start, words), here in zip(found, together, strict=True):
            packed[start : start + len(words)] = here
    if len(packed):
        packed = processes.all_reduce(packed)
    return list(packed.split(lengths))


def _gathered(processes: Processes, parts: list[tuple[Tensor, int]]) -> list[list[Tensor]]:
    """For each of ``parts`` what all processes brought, by rank, as long as it was there."""
    rooms = [length + 1 if length else 0 for _, length in parts]
    if not any(rooms):
        return [[no_words()] * processes.world for _ in parts]
    packed = torch.zeros(sum(rooms), dtype=torch.int64)
    for room, (words, length) in zip(packed.split(rooms), parts, strict=True):
        if length:
            room[0] = len(words)
            room[1 : 1 + len(words)] = words
    by_rank = [words.split(rooms) for words in processes.all_gather(packed)]
    return [[words[1 : 1 + int(words[0])] if len(words) else words for words in same] for same in zip(*by_rank, strict=True)]
