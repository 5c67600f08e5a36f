"""Whether a method is called by its author's own code: then it is no hook that was meant to be called by us."""

from __future__ import annotations

import ast
import dis
import inspect
import sys
from collections.abc import Iterator
from types import CodeType
from typing import Any

_LOADS = ("LOAD_ATTR", "LOAD_METHOD")


def calls_itself(part: object, name: str) -> bool:
    """Whether code of the classes of ``part`` reads ``.name``, or a file in which they or the running script stand calls it.

    A definition of ``name`` is not looked into: that it hands on to a base's method does not mean that anybody calls it.
    Asked only for a name that is doubtful, so it may take its time.
    """
    owners = [owner for owner in type(part).__mro__ if owner.__module__.split(".")[0] not in ("leyden", "torch", "builtins")]
    if any(_loads(code, name) for owner in owners for code in _codes(owner, name)):
        return True
    files = {getattr(sys.modules.get(owner.__module__), "__file__", None) for owner in owners}
    files.add(getattr(sys.modules.get("__main__"), "__file__", None))
    return any(_calls(tree, name) for file in files if file is not None for tree in _parsed(file))


def _codes(owner: type, name: str) -> Iterator[CodeType]:
    """What the methods of ``owner`` consist of, but for the one called ``name``."""
    for key, value in vars(owner).items():
        if key == name:
            continue
        functions = [value.fget, value.fset] if isinstance(value, property) else [getattr(value, "__func__", value)]
        for function in functions:
            code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
            if isinstance(code, CodeType):
                yield code


def _loads(code: CodeType, name: str) -> bool:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType) and constant.co_name != name]
    if "getattr" in code.co_names:
        texts = [text for text in code.co_consts if isinstance(text, str)]
        if any(_may_make(text, name) for text in texts):
            return True
    if name in code.co_names and any(step.opname in _LOADS and step.argval == name for step in dis.get_instructions(code)):
        return True
    return any(_loads(each, name) for each in inner)


def _parsed(file: str) -> Iterator[ast.AST]:
    try:
        with open(file, encoding="utf-8") as source:
            yield ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return  # no file of Python's: what is not there calls nothing


def _calls(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
        return False
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr == name and not _is_of_a_class(called.value):
            return True
        if isinstance(called, ast.Name) and called.id in ("getattr", "methodcaller") and not any(map(_is_of_a_class, node.args)):
            texts = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            if any(_may_make(text, name) for text in texts):
                return True
    return any(_calls(child, name) for child in ast.iter_child_nodes(node))


def _is_of_a_class(value: Any) -> bool:
    """Whether it is ``self`` or ``super()``: what a class calls of itself is looked for in its own code, not in its file."""
    return isinstance(value, ast.Name | ast.Call) and getattr(getattr(value, "func", value), "id", "") in ("self", "super")


def _may_make(text: object, name: str) -> bool:
    """Whether ``text`` is the name that ``getattr`` is asked for, or the end or beginning of it: ``f"{stage}_step"``."""
    return isinstance(text, str) and len(text) > 3 and "_" in text and (name.endswith(text) or name.startswith(text))
