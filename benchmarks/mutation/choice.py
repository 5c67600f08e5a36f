"""Which mutants are tried, and which tests try them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import PurePosixPath
from typing import Protocol

from mutation.source import Difference, Source, difference


class Written(Protocol):
    """The mutants of a source, each written out when it is asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> str: ...


# Which mutants


@dataclass(frozen=True)
class Mutant:
    """A source with one change."""

    file: str
    change: Difference
    text: str

    @property
    def line(self) -> int:
        return self.change.begin[0]


@dataclass(frozen=True)
class Equivalent:
    """A mutant of which a reviewer says that it behaves as the source does."""

    file: str
    line: str
    becomes: str
    reason: str


def read_equivalents(text: str) -> list[Equivalent]:
    """The reviewed mutants: paragraphs of ``file:``, ``line:``, ``becomes:`` and ``reason:``; ``#`` begins a comment."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = []
    for paragraph in "\n".join(lines).split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.strip().splitlines())
        if fields:
            found.append(Equivalent(**{name: " ".join(value.split()) for name, value in fields.items()}))
    return found


def draw(
    sources: Mapping[str, Source], written: Mapping[str, Written], equivalents: Sequence[Equivalent], size: int, seed: int
) -> tuple[list[Mutant], Counter[str]]:
    """So many mutants of the sources, drawn at random; and why others that were drawn are left out, with their number."""
    order = [(file, number) for file in sorted(written) for number in range(len(written[file]))]
    random.Random(seed).shuffle(order)  # a larger sample begins as a smaller one does
    drawn: list[Mutant] = []
    left_out: Counter[str] = Counter()
    for file, number in order:
        if len(drawn) == size:
            break
        text = written[file][number]
        mutant = Mutant(file, difference(sources[file].text, text), text)
        why = why_left_out(mutant, sources[file], equivalents)
        if why is None:
            drawn.append(mutant)
        else:
            left_out[why] += 1
    return drawn, left_out


def why_left_out(mutant: Mutant, source: Source, equivalents: Sequence[Equivalent]) -> str | None:
    """Why no test can be asked to notice this mutant, or ``None``."""
    why = source.why_inert(mutant.change) or source.why_no_mutant(mutant.text)
    if why is not None:
        return why
    for known in equivalents:
        if (known.file, known.line, known.becomes) == (mutant.file, mutant.change.before, mutant.change.after):
            return f"equivalent: `{known.line}` as `{known.becomes}` in {known.file}: {known.reason}"
    return None


# Which tests

NEARER = 4
"""How much quicker a test counts that stands where the source stands."""


@dataclass(frozen=True)
class KnownTest:
    """A test by its name for pytest, with the seconds that it took."""

    name: str
    seconds: float

    @property
    def file(self) -> PurePosixPath:
        return PurePosixPath(self.name.partition("::")[0])


def choose(tests: Iterable[KnownTest], source: str, most: int, seconds: float) -> list[KnownTest]:
    """The tests for a mutant of ``source``, in the order in which they run: at most so many, and no longer than so long.

    Half of that is for a look from every side: each file of tests gives its quickest, then each its second, and so on. What is
    left is for the quickest of the others. One test is always taken. The quick ones run first; those that stand where the source
    stands count as quicker.
    """
    quick = sorted(tests, key=lambda test: (test.seconds, test.name))
    files: dict[PurePosixPath, list[KnownTest]] = {}
    for test in quick:
        files.setdefault(test.file, []).append(test)
    in_turn = filter(None, chain.from_iterable(zip_longest(*files.values())))
    broad = within(in_turn, most // 2, seconds / 2) or quick[:1]
    taken = set(broad)
    others = [test for test in quick if test not in taken]
    chosen = broad + within(others, most - len(broad), seconds - sum(test.seconds for test in broad))
    return sorted(chosen, key=lambda test: (test.seconds / (NEARER if mirrors(test, source) else 1), test.name))


def within(tests: Iterable[KnownTest], most: int, seconds: float) -> list[KnownTest]:
    """The first of the tests that these limits leave room for; one that is too long is passed over."""
    taken: list[KnownTest] = []
    for test in tests:
        if len(taken) < most and test.seconds <= seconds:
            seconds -= test.seconds
            taken.append(test)
    return taken


def mirrors(test: KnownTest, source: str) -> bool:
    """Whether a test stands in ``tests/`` where the source stands in ``src/leyden/``."""
    return PurePosixPath(*test.file.parts[1:-1]) == PurePosixPath(*PurePosixPath(source).parts[2:-1])
