"""Mutants of a source: mutmut's operators, and two more of ours that drop a call and negate a condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libcst as cst
from mutmut.mutation.mutators import mutation_operators

TRIVIAL = {"isinstance", "len"}
"""Calls whose arguments we leave alone, as mutmut does: another number of them is an error at once."""


class Mutants:
    """All mutants of a source, each written out when it is asked for."""

    def __init__(self, text: str) -> None:
        self.module = cst.parse_module(text)
        self.changes = list(changes(self.module))

    def __len__(self) -> int:
        return len(self.changes)

    def __getitem__(self, number: int, /) -> str:
        """The source with one change."""
        changed: Any = self.module.deep_replace(*self.changes[number])
        return str(changed.code)


def changes(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every node below ``node`` and what one operator puts in its place."""
    trivial = isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in TRIVIAL
    if not trivial:
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                yield from ((node, other) for other in operator(node))
        yield from ((node, other) for other in ours(node))
    for child in node.children:
        yield from changes(child)


def ours(node: Any) -> Iterator[Any]:
    """What mutmut has no operator for: a statement that is a call and nothing else, dropped; a condition, negated."""
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Pass(semicolon=node.semicolon)
    if isinstance(node, cst.If | cst.While):
        inner = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))
