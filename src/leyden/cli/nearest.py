"""What a wrong word on the command line, or in a configuration file, was meant to be."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args, get_origin

from leyden.errors import did_you_mean

_UNKNOWN_OPTIONS = re.compile(r"[Uu]nrecognized arguments: (.*)")
_UNKNOWN_IN_CLASS = re.compile(r"Problem with given class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted")
_UNKNOWN_IN_GROUP = re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'")
_UNKNOWN_IN_SUBCOMMAND = re.compile(r"Subcommand '(\w+)' does not accept option '([\w.]+)'")
_UNKNOWN_KEY = re.compile(r"Option '([\w.]+)' is not accepted")
_NO_CLASS = re.compile(r'Parser key "([\w.]+)":.*Expected a dot import path string: (\w+)\n', re.DOTALL)
_WRONG_VALUE = re.compile(r'Parser key "([\w.]+)":.*Given value: (\w+)\s*$', re.DOTALL)
_WRONG_CHOICE = re.compile(r"invalid choice: '(\w+)'")


def nearest(parser: Any, message: str) -> str:
    """A sentence that names the right word for the wrong one that jsonargparse's ``message`` complains of; or nothing."""
    for pattern, answer in _ANSWERS:
        found = pattern.search(message)
        if found is not None:
            said: str = answer(parser, *found.groups())
            return said
    return ""


def _for_options(parser: Any, words: str) -> str:
    said = []
    own = _options(parser)
    of_subcommands = {option: name for name, sub in subparsers(parser).items() for option in _options(sub)}
    for word in words.split():
        option = word.partition("=")[0]
        if not option.startswith("-"):
            continue
        if option in of_subcommands and option not in own:
            said.append(f" {option} is an option of the subcommands: say it after {' or '.join(subparsers(parser))}.")
        else:
            near = did_you_mean(option, [*own, *of_subcommands])
            if not near and "." in option:  # an argument of a class that is named by another argument
                near = _for_argument_of_named(parser, option)
            said.append(near)
    return "".join(dict.fromkeys(said))


def _for_argument_of_named(parser: Any, option: str) -> str:
    group, _, name = option.lstrip("-").rpartition(".")
    return did_you_mean(name, [key.rpartition(".")[2] for key in _keys(parser) if key.startswith(f"{group}.")])


def _for_argument(_: Any, path: str, name: str) -> str:
    module, _dot, class_name = path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), class_name)
    except (ImportError, AttributeError, ValueError):
        return ""
    known = _arguments(kind)
    return did_you_mean(name, known) or (f" {class_name} takes: {', '.join(known)}." if known else "")


def _for_group(parser: Any, group: str, name: str) -> str:
    keys = _keys(parser)
    inside = [key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")]
    for subparser in subparsers(parser).values():
        inside += [key.removeprefix(f"{group}.") for key in _keys(subparser) if key.startswith(f"{group}.")]
    return did_you_mean(name, inside)


def _for_key(parser: Any, key: str) -> str:
    keys = [*_keys(parser), *(key for sub in subparsers(parser).values() for key in _keys(sub))]
    tops = list(dict.fromkeys(known.partition(".")[0] for known in keys))
    return did_you_mean(key, [*keys, *tops]) or did_you_mean(key.partition(".")[0], [*subparsers(parser), *tops])


def _for_subcommand(parser: Any, subcommand: str, key: str) -> str:
    if key.startswith(f"{subcommand}."):
        return f" A file with a part for each subcommand is said before it: --config FILE {subcommand}."
    return _for_key(subparsers(parser).get(subcommand, parser), key)


def _for_value(parser: Any, key: str, value: str) -> str:
    for one in (parser, *subparsers(parser).values()):
        for action in one._actions:
            if action.dest == key or key.endswith(f".{action.dest}"):
                words = list(_words_of(getattr(action, "_typehint", None)))
                return "" if value in words else did_you_mean(value, words)
    return ""


def _for_choice(parser: Any, value: str) -> str:
    return did_you_mean(value, subparsers(parser))


_ANSWERS: tuple[tuple[re.Pattern[str], Any], ...] = (
    (_UNKNOWN_OPTIONS, _for_options),
    (_UNKNOWN_IN_CLASS, _for_argument),
    (_UNKNOWN_IN_GROUP, _for_group),
    (_UNKNOWN_IN_SUBCOMMAND, _for_subcommand),
    (_UNKNOWN_KEY, _for_key),
    (_NO_CLASS, _for_value),
    (_WRONG_VALUE, _for_value),
    (_WRONG_CHOICE, _for_choice),
)


def subparsers(parser: Any) -> dict[str, Any]:
    for action in parser._actions:
        if isinstance(action.choices, dict):
            return dict(action.choices)
    return {}


def _options(parser: Any) -> list[str]:
    return [option for option in parser._option_string_actions if option.startswith("--")]


def _keys(parser: Any) -> list[str]:
    return [action.dest for action in parser._actions if action.dest != "help"]


def _arguments(kind: Any) -> list[str]:
    """The names that a class's constructor takes, and those of its bases', where it hands others on."""
    names: list[str] = []
    for owner in inspect.getmro(kind) if isinstance(kind, type) else (kind,):
        if isinstance(owner, type) and "__init__" not in vars(owner):
            continue
        parameters = inspect.signature(owner).parameters.values()
        names += [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return list(dict.fromkeys(names))


def _words_of(hint: Any) -> Iterable[str]:
    """What may stand for a value of a type: the choices of a Literal, the names of classes."""
    if get_origin(hint) is Literal:
        yield from (str(value) for value in get_args(hint))
    elif isinstance(hint, type) and get_origin(hint) is None and hint.__module__ != "builtins":
        yield from _subclasses(hint)
    for inner in get_args(hint):
        yield from _words_of(inner)


def _subclasses(kind: type) -> Iterator[str]:
    if not kind.__name__.startswith("_"):
        yield kind.__name__
    below: list[type] = kind.__subclasses__()
    for subclass in below:
        yield from _subclasses(subclass)
