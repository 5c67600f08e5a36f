"""What stands where in a source: where a change cannot change behaviour, and the lines that tell whether a test gets there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

Place = tuple[int, int]
"""Line and column, as :mod:`ast` counts them (from 1, from 0), but in characters."""

WARNS = {"warn", "debug", "info", "warning", "rank_zero_warn"}
TYPES = {"TypeVar", "ParamSpec", "NewType"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True)
class Difference:
    """What a mutant changed: the span of the text before it, and the lines that it spoilt, before and after."""

    begin: Place
    end: Place
    before: str
    after: str


def difference(before: str, after: str) -> Difference:
    """The one span by which two texts differ, as short as it can be."""
    begin = next((index for index, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    longest = min(len(before), len(after)) - begin
    same = next((index for index in range(longest) if before[-1 - index] != after[-1 - index]), longest)
    end = len(before) - same
    first = before.rfind("\n", 0, begin) + 1
    rest = before.find("\n", end)
    rest = len(before) if rest < 0 else rest
    shown = [" ".join(text.split()) for text in (before[first:rest], after[first : rest + len(after) - len(before)])]
    return Difference(_place(before, begin), _place(before, end), *shown)


def _place(text: str, index: int) -> Place:
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index) - 1


class Source:
    """A source file, read once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.inert = list(self._inert())

    def why_inert(self, change: Difference) -> str | None:
        """Why this change cannot change what the program does; ``None`` where it may."""
        return next((why for begin, end, why in self.inert if begin <= change.begin and change.end <= end), None)

    def why_no_mutant(self, text: str) -> str | None:
        """Why ``text`` is no other program than this one; ``None`` where it is."""
        try:
            compile(text, "mutant", "exec")
        except SyntaxError:
            return "no Python"
        return "the same program" if ast.dump(ast.parse(text)) == ast.dump(self.tree) else None

    def telling_lines(self, line: int) -> list[set[int]]:
        """Lines that a test has to reach to reach ``line``: those of the first set of which any test reaches one.

        In a function they are the statement's own. What runs on import tells nothing by itself: there it is the body of the
        function whose head stands on ``line``, else the class, else the file.
        """
        outer: list[set[int]] = [set(range(1, len(self.lines) + 1))]
        blocks: ast.AST = self.tree
        inside = False
        while True:
            found = next((part for part in _parts(blocks) if _first_line(part) <= line <= (part.end_lineno or 0)), None)
            if found is None:
                return [_own_lines(blocks)] if inside else outer
            if isinstance(found, FUNCTIONS) and not inside:
                body = set(range(found.body[0].lineno, (found.end_lineno or 0) + 1))
                if line not in body:
                    return [body, *outer]
                inside = True
            elif isinstance(found, ast.ClassDef) and not inside:
                outer.insert(0, set(range(found.lineno, (found.end_lineno or 0) + 1)))
            blocks = found

    # -- where a change changes nothing
    def _inert(self) -> Iterator[tuple[Place, Place, str]]:
        for node in ast.walk(self.tree):
            for part, why in inert_parts(node):
                yield self._span(part, why)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                yield self._arguments(node.exc, "text of an error")
            if isinstance(node, ast.Call) and _name(node.func) in WARNS:
                yield self._arguments(node, "text of a warning")

    def _span(self, node: ast.AST, why: str) -> tuple[Place, Place, str]:
        assert isinstance(node, ast.expr | ast.stmt)
        end_line, end_column = node.end_lineno or 0, node.end_col_offset or 0
        return self._place(node.lineno, node.col_offset), self._place(end_line, end_column), why

    def _arguments(self, call: ast.Call, why: str) -> tuple[Place, Place, str]:
        function, whole = self._span(call.func, why), self._span(call, why)
        return function[1], whole[1], why

    def _place(self, line: int, octets: int) -> Place:
        return line, len(self.lines[line - 1].encode()[:octets].decode())


def inert_parts(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """The parts of ``node`` that have no say in what happens when the program runs."""
    if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
        yield node.annotation, "type annotation"
    elif isinstance(node, FUNCTIONS) and node.returns is not None:
        yield node.returns, "type annotation"
    elif isinstance(node, ast.Call) and _name(node.func) == "cast" and node.args:
        yield node.args[0], "type annotation"
    elif isinstance(node, ast.Call) and _name(node.func) in TYPES:
        yield node, "type annotation"
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        yield node, "docstring"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield node, "import"
    elif isinstance(node, ast.Assert):
        yield node, "assertion"
    elif isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        yield node.test, "for the type checker"
        yield from ((statement, "for the type checker") for statement in node.body)


def _name(node: ast.AST) -> str:
    """The last name of a dotted one, else nothing."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _parts(node: ast.AST) -> list[ast.stmt | ast.excepthandler]:
    """The statements right below a statement, in order; an ``except`` counts as one."""
    parts = [part for block in BLOCKS for part in getattr(node, block, [])]
    return [inner for part in parts for inner in (part.body if isinstance(part, ast.match_case) else [part])]


def _first_line(part: ast.stmt | ast.excepthandler) -> int:
    decorators: list[ast.expr] = getattr(part, "decorator_list", [])
    return min([part.lineno, *(decorator.lineno for decorator in decorators)])


def _own_lines(node: ast.AST) -> set[int]:
    """The lines of a statement without those of the statements below it."""
    assert isinstance(node, ast.stmt | ast.excepthandler)
    below = {line for part in _parts(node) for line in range(_first_line(part), (part.end_lineno or 0) + 1)}
    return set(range(node.lineno, (node.end_lineno or 0) + 1)) - below
