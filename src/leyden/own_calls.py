"""Whether a method is called by its author's own code: then it is no hook that was meant to be called by us."""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import os
import sys
from collections.abc import Container, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

_LOADS = ("LOAD_ATTR", "LOAD_METHOD")
_INSTALLED = ("site-packages", "dist-packages", os.path.dirname(os.__file__))


def calls_itself(part: object, name: str) -> bool:
    """Whether code of the classes of ``part`` reads ``.name``, or a file of the author's that has to do with them calls it.

    Such files are those in which the classes stand, what these import, what imports these, and the running script.
    A definition of ``name`` is not looked into: that it hands on to a base's method does not mean that anybody calls it.
    Asked only for a name that is doubtful, so it may take its time.
    """
    owners = _own_classes(part)
    codes = [code for owner in owners for code in _codes(owner, name)]
    if any(_loads(code, name) for code in codes) or (any(map(_asks_by_name, codes)) and _says(owners, codes, name)):
        return True
    return any(_calls(tree, name) for file in _files_around(owners) for tree in _parsed(file, name))


def hands_on(part: object, name: str, hooks: Container[str]) -> bool:
    """Whether one of ``hooks``, as ``part`` has it, calls ``self.name``, itself or by way of the author's other methods."""
    methods: dict[str, list[CodeType]] = {}
    for owner in _own_classes(part):
        for key, code in _named_codes(owner):
            methods.setdefault(key, []).append(code)
    reached = [key for key in methods if key in hooks and key != name]
    for key in reached:  # grows on the way
        called = {each for code in methods[key] for each in _of_itself(code)}
        if name in called:
            return True
        reached.extend(each for each in called if each in methods and each not in reached)
    return False


def _own_classes(part: object) -> list[type]:
    return [owner for owner in type(part).__mro__ if not is_ours(owner)]


def is_ours(owner: type) -> bool:
    """Whether a class is of the house, of PyTorch or of Python, and not its author's."""
    return owner.__module__.split(".")[0] in ("leyden", "torch", "builtins")


def _files_around(owners: list[type]) -> set[str]:
    """The author's files that import a module of ``owners`` or are imported by one, and these themselves."""
    modules = {name: module for name, module in list(sys.modules.items()) if _is_the_author_s(module)}
    homes = {owner.__module__ for owner in owners}
    around = [name for name in modules if name in homes or name == "__main__" or not homes.isdisjoint(_imported(modules[name]))]
    inward = [name for name in modules if name in homes]
    for name in inward:  # grows on the way
        inward.extend(each for each in _imported(modules[name]) if each in modules and each not in inward)
    return {str(modules[name].__file__) for name in {*around, *inward}}


def _is_the_author_s(module: Any) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and _is_an_author_s(file) and getattr(module, "__name__", "").split(".")[0] != "leyden"


@functools.cache
def _is_an_author_s(file: str) -> bool:
    return file.endswith(".py") and not any(part in file for part in _INSTALLED)


def _imported(module: Any) -> set[str]:
    """The modules of which ``module`` holds something by a name: a module, a class, a function."""
    values = [value for value in vars(module).values() if isinstance(value, ModuleType | type | FunctionType)]
    return {value.__name__ if isinstance(value, ModuleType) else value.__module__ for value in values}


def _codes(owner: type, name: str) -> Iterator[CodeType]:
    """What the methods of ``owner`` consist of, but for the one called ``name``."""
    return (code for key, code in _named_codes(owner) if key != name)


def _named_codes(owner: type) -> Iterator[tuple[str, CodeType]]:
    for key, value in vars(owner).items():
        functions = [value.fget, value.fset] if isinstance(value, property) else [getattr(value, "__func__", value)]
        for function in functions:
            code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
            if isinstance(code, CodeType):
                yield key, code


def _of_itself(code: CodeType) -> Iterator[str]:
    """The names that ``code``, a method's, reads of ``self``."""
    if code.co_argcount and not code.co_flags & inspect.CO_NESTED:
        yield from _read_of(code, code.co_varnames[0])


def _read_of(code: CodeType, own: str) -> Iterator[str]:
    before: Any = None
    for step in dis.get_instructions(code):
        if step.opname in _LOADS and (before == own or (isinstance(before, tuple) and before[-1] == own)):
            yield step.argval
        before = step.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and own in constant.co_freevars:
            yield from _read_of(constant, own)


def _asks_by_name(code: CodeType) -> bool:
    return "getattr" in code.co_names or any(_asks_by_name(each) for each in code.co_consts if isinstance(each, CodeType))


def _says(owners: list[type], codes: list[CodeType], name: str) -> bool:
    """Whether ``name`` stands as a text in the code or among the values of classes."""
    values = [value for owner in owners for value in vars(owner).values()]
    return any(_holds(each, name) for each in [*codes, *values])


def _holds(value: Any, name: str, depth: int = 4) -> bool:
    if isinstance(value, str):
        return value == name
    if isinstance(value, CodeType):
        value = value.co_consts
    elif isinstance(value, dict):
        value = (*value, *value.values())
    return (
        isinstance(value, tuple | list | set | frozenset) and depth > 0 and any(_holds(each, name, depth - 1) for each in value)
    )


def _loads(code: CodeType, name: str) -> bool:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType) and constant.co_name != name]
    if "getattr" in code.co_names:
        texts = [text for text in code.co_consts if isinstance(text, str)]
        if any(_may_make(text, name) for text in texts):
            return True
    if name in code.co_names and any(step.opname in _LOADS and step.argval == name for step in dis.get_instructions(code)):
        return True
    return any(_loads(each, name) for each in inner)


def _parsed(file: str, name: str) -> Iterator[ast.AST]:
    try:
        with open(file, encoding="utf-8") as source:
            text = source.read()
        if name in text or "getattr" in text or "methodcaller" in text:
            yield ast.parse(text)
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
