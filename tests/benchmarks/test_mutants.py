"""``make mutants``: which mutants are drawn, what is left out, which tests are chosen and asked. No mutant runs here."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from mutation.choice import Equivalent, KnownTest, Mutant, choose, draw, read_equivalents, why_left_out
from mutation.reach import Reach, named_in
from mutation.source import Source, difference
from mutation.tree import Done
from mutation.trial import what_fails

ROOT = Path(__file__).resolve().parents[2]
FILE = "src/leyden/loops/story.py"
TEXT = dedent(
    '''
    """What this file is for."""

    import warnings
    from typing import TYPE_CHECKING, cast

    if TYPE_CHECKING:
        LIMIT = 1

    NAMES = {"val": "validation"}


    class Story:
        """A story."""

        length: int | None = 3

        def tell(self, loud: bool = True) -> int | None:
            """Tell it."""
            assert self.length > 2
            if self.length > 3 and loud:
                raise ValueError("too long", self.length)
            elif not loud:
                warnings.warn("it is quiet", UserWarning, stacklevel=2)
            try:
                words = cast("int | float", self.length)
            except TypeError:
                words = 0
            return max(
                words,
                1,
            )
    '''
)
SOURCE = Source(TEXT)


def mutant(old: str, new: str, file: str = FILE) -> Mutant:
    assert TEXT.count(old) == 1
    text = TEXT.replace(old, new)
    return Mutant(file, difference(TEXT, text), text)


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(TEXT.splitlines(), 1) if text in line)


# What is left out


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("length: int | None", "length: int & None", "type annotation"),
        ("-> int | None", "-> int & None", "type annotation"),
        ('"int | float"', '"XXint | floatXX"', "type annotation"),
        ("A story.", "a story.", "docstring"),
        ("self.length > 2", "self.length >= 2", "assertion"),
        ("LIMIT = 1", "LIMIT = 2", "for the type checker"),
        ('"too long"', "None", "text of an error"),
        (', UserWarning', "", "text of a warning"),
        ("import warnings", "import warning", "import"),
        ("words = 0", "words = (0)", "the same program"),
        ("words = 0", "words = = 0", "no Python"),
    ],
)  # fmt: skip
def test_what_cannot_change_behaviour_is_left_out_and_named(old: str, new: str, why: str) -> None:
    assert why_left_out(mutant(old, new), SOURCE, []) == why


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("None = 3", "None = 4"),
        ("loud: bool = True", "loud: bool = False"),
        ("self.length > 3", "self.length >= 3"),
        ("3 and loud", "3 or loud"),
        ('warnings.warn("it is quiet", UserWarning, stacklevel=2)', "pass"),
        ('"val"', '"VAL"'),
        ("words = 0", "words = None"),
    ],
)
def test_what_may_change_behaviour_is_tried(old: str, new: str) -> None:
    assert why_left_out(mutant(old, new), SOURCE, []) is None


def test_a_reviewed_mutant_is_left_out_with_its_reason() -> None:
    known = Equivalent(FILE, "words = 0", "words = 1", "max() makes it 1")
    assert "max() makes it 1" in (why_left_out(mutant("words = 0", "words = 1"), SOURCE, [known]) or "")
    assert why_left_out(mutant("words = 0", "words = -1"), SOURCE, [known]) is None
    assert why_left_out(mutant("words = 0", "words = 1", file="src/leyden/loops/other.py"), SOURCE, [known]) is None


def test_reviewed_mutants_are_paragraphs() -> None:
    first = "# a comment\n\nfile: a.py\nline: x  = 1: int\nbecomes: x = 2\nreason: never read\n"
    text = first + "\nfile: b.py\nline: y\nbecomes: z\nreason: r\n"
    assert read_equivalents(text) == [
        Equivalent("a.py", "x = 1: int", "x = 2", "never read"),
        Equivalent("b.py", "y", "z", "r"),
    ]


def test_every_reviewed_mutant_is_of_a_line_that_is_there() -> None:
    for known in read_equivalents((ROOT / "benchmarks" / "equivalent_mutants.txt").read_text()):
        assert known.line in " ".join((ROOT / known.file).read_text().split()), f"no longer there: {known}"


def test_a_change_over_several_lines_shows_them_all() -> None:
    change = difference(TEXT, TEXT.replace("words,\n            1,", "words,\n        "))
    assert (change.before, change.after) == ("1,", "")
    change = mutant("max(\n            words", "max(\n            None").change
    assert (change.before, change.after, change.begin[0]) == ("words,", "None,", line_of("            words,"))


# Which mutants


def test_a_sample_is_the_same_every_time_and_grows_at_its_end() -> None:
    written = {FILE: [mutant("None = 3", f"None = {number}").text for number in range(4, 40)]}
    few, _ = draw({FILE: SOURCE}, written, [], size=5, seed=1)
    many, _ = draw({FILE: SOURCE}, written, [], size=20, seed=1)
    other, _ = draw({FILE: SOURCE}, written, [], size=5, seed=2)
    assert (len(few), len(many)) == (5, 20)
    assert many[:5] == few != other


def test_what_is_left_out_is_counted_and_makes_room() -> None:
    texts = [mutant("A story.", f"Story {number}.").text for number in range(7)] + [mutant("words = 0", "words = 1").text]
    drawn, left_out = draw({FILE: SOURCE}, {FILE: texts}, [], size=5, seed=0)
    assert [one.change.after for one in drawn] == ["words = 1"]
    assert left_out == {"docstring": 7}


# Which tests


def test_a_statement_in_a_function_is_reached_by_its_own_lines() -> None:
    assert SOURCE.telling_lines(line_of("words = 0")) == [{line_of("words = 0")}]
    assert SOURCE.telling_lines(line_of("            words,")) == [set(range(line_of("return max("), line_of("return max(") + 4))]
    assert SOURCE.telling_lines(line_of("elif not loud")) == [{line_of("elif not loud")}]
    assert SOURCE.telling_lines(line_of("except TypeError")) == [{line_of("except TypeError")}]


def test_what_runs_on_import_is_reached_by_the_function_the_class_or_the_file() -> None:
    end = len(TEXT.splitlines())
    file, story = set(range(1, end + 1)), set(range(line_of("class Story"), end + 1))
    assert SOURCE.telling_lines(line_of("NAMES")) == [file]
    assert SOURCE.telling_lines(line_of("length: int")) == [story, file]
    assert SOURCE.telling_lines(line_of("def tell")) == [set(range(line_of("Tell it"), end + 1)), story, file]


def test_the_nearest_lines_that_a_test_reaches_count() -> None:
    tests = [("tests/a.py::one", 1.0), ("tests/a.py::two", 2.0), ("tests/b.py::three", 3.0)]
    reach = Reach("", {}, [FILE], tests, {FILE: {"4": [0], "5": [0, 1], "9": [2]}}, [])
    assert [test.name for test in reach.of(FILE, [{4, 5}, {9}])] == ["tests/a.py::one", "tests/a.py::two"]
    assert [test.name for test in reach.of(FILE, [{6}, {9}])] == ["tests/b.py::three"]
    assert reach.of(FILE, [{6}]) == reach.of("src/leyden/loops/other.py", [{4}]) == []


def test_a_later_recording_of_some_files_takes_the_place_of_what_was_known_of_them() -> None:
    tests = [("tests/a.py::one", 1.0), ("tests/b.py::two", 2.0), ("tests/c.py::three", 3.0)]
    old = Reach(
        "", {"tests/a.py": "a", "tests/b.py": "b", "tests/c.py": "c"}, [FILE], tests, {FILE: {"4": [0, 1], "5": [1, 2]}}, []
    )
    hashes = {"tests/b.py": "other", "tests/c.py": "c"}
    new = Reach("", hashes, [FILE], [("tests/b.py::four", 4.0)], {FILE: {"5": [0], "6": [0]}}, ["tests/b.py::five"])
    now = old.renewed(new)
    names = {line: [test.name for test in now.of(FILE, [{line}])] for line in (4, 5, 6)}
    assert names == {4: [], 5: ["tests/c.py::three", "tests/b.py::four"], 6: ["tests/b.py::four"]}
    assert (now.hashes, now.unfit) == (hashes, ["tests/b.py::five"])


def test_quick_tests_run_first_and_near_ones_count_as_quicker() -> None:
    tests = [
        KnownTest("tests/test_a.py::slow", 3.0),
        KnownTest("tests/test_a.py::quick", 0.1),
        KnownTest("tests/loops/test_fit.py::slow", 4.0),
        KnownTest("tests/loops/test_fit.py::quick", 0.2),
        KnownTest("tests/state/test_run.py::only", 0.06),
    ]
    names = [test.name.rpartition("/")[2] for test in choose(tests, FILE, most=10, seconds=100)]
    assert names == ["test_fit.py::quick", "test_run.py::only", "test_a.py::quick", "test_fit.py::slow", "test_a.py::slow"]


def test_half_of_the_room_is_for_every_file_in_turn_and_half_for_the_quickest() -> None:
    tests = [KnownTest(f"tests/test_{file}.py::{number}", file + number / 10) for file in range(3) for number in range(1, 9)]
    names = {test.name.rpartition("/")[2] for test in choose(tests, FILE, most=8, seconds=100)}
    in_turn = {"test_0.py::1", "test_1.py::1", "test_2.py::1", "test_0.py::2"}
    assert names == in_turn | {"test_0.py::3", "test_0.py::4", "test_0.py::5", "test_0.py::6"}


def test_the_caps_hold_and_one_test_is_always_taken() -> None:
    tests = [KnownTest(f"tests/test_{number}.py::it", float(number)) for number in range(1, 9)]
    assert [test.seconds for test in choose(tests, FILE, most=3, seconds=100)] == [1, 2, 3]
    assert [test.seconds for test in choose(tests, FILE, most=10, seconds=7)] == [1, 2, 3]
    assert [test.seconds for test in choose(tests, FILE, most=10, seconds=0.5)] == [1]
    assert [test.seconds for test in choose(tests, FILE, most=10, seconds=100)] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert choose([], FILE, most=10, seconds=10) == []


def test_a_context_names_a_test() -> None:
    assert (
        named_in("tests/test_a.py::test[a (b)] (call)")
        == named_in("tests/test_a.py::test[a (b)]")
        == "tests/test_a.py::test[a (b)]"
    )


def test_cases_that_a_mutant_does_not_have_are_left_out_and_the_others_asked() -> None:
    class Tree:
        def pytest(self, options: list[str], limit: float) -> Done:
            if any("of_the_code" in option for option in options):
                return Done(4, "ERROR: not found: /somewhere/0/tree/tests/test_a.py::test_of_the_code\n(no match)\n")
            return (
                Done(1, "FAILED tests/test_a.py::test_other - assert\n")
                if "tests/test_a.py::test_other" in options
                else Done(0, "")
            )

    drawn, other, third = (KnownTest(f"tests/test_a.py::test_{name}", 1.0) for name in ("of_the_code[1]", "other", "third"))
    tree: Any = Tree()
    assert what_fails([drawn, other], tree) == "tests/test_a.py::test_other"
    assert what_fails([third, drawn], tree) is None
    assert what_fails([drawn], tree) is None


@pytest.mark.parametrize(
    "said",
    [
        "ImportError while loading conftest '/tree/tests/conftest.py'.\nE   NameError: x\n",
        "ERROR: while parsing the following warning configuration:\n\n  ignore:x:leyden.errors.LeydenWarning\n\nNameError: x\n",
    ],
)
def test_a_package_that_does_not_load_is_caught(said: str) -> None:
    class Tree:
        def pytest(self, options: list[str], limit: float) -> Done:
            return Done(4, said)

    tree: Any = Tree()
    assert what_fails([KnownTest("tests/test_a.py::test_it", 1.0)], tree) == "importing it"
