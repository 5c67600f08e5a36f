"""Import paths of Lightning's in existing configuration files, as those of our classes of the same names."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from leyden.cli.read_files import refuse_wrong_parts
from leyden.errors import NotOffered, UnknownName, did_you_mean
from leyden.not_offered import Absent

_PATH = re.compile(r"(?:lightning\.pytorch|pytorch_lightning|lightning(?:\.fabric)?)((?:\.[A-Za-z_]\w*)+)")

reading: ContextVar[bool] = ContextVar("leyden_cli_reading", default=False)
"""Whether one of our parsers reads a configuration: what other parsers of the program read is left alone."""
_wrapped: set[str] = set()


def today(path: str) -> str:
    """Our import path for what Lightning has at ``path``; any other path as it is.

    Raises:
        UnknownName: it begins as Lightning's paths do, and we have nothing of that name.
        NotOffered: the class is known, and not offered.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        return path
    *_, name = words = found[1][1:].split(".")
    for room in _rooms(words[:-1]):
        if hasattr(room, name):
            kind = getattr(room, name)
            if isinstance(kind, type) and Absent in kind.__mro__:
                raise NotOffered(f"{path!r}: it is not offered. {vars(kind)['advice']}")
            return f"{room.__name__}.{name}"
    room = next(_rooms(words[:1]))
    raise UnknownName(f"{path!r}: {room.__name__} has no {name!r}.{did_you_mean(name, dir(room))}")


def translated(value: Any) -> Any:
    """A configuration with Lightning's class paths as ours. The one given is not changed.

    A text under ``class_path`` is always one. Any other is where we have a class or function of that name: a class's path may
    stand alone, where it needs no arguments.
    """
    if isinstance(value, dict):
        return {key: _class_path(item) if key == "class_path" else translated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [translated(item) for item in value]
    return of_text(value) if isinstance(value, str) else value


def of_argument(word: str) -> str:
    """A word of the command line: ``path`` or ``--option=path``."""
    option, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{sign}{of_text(value)}"


def of_text(text: str) -> str:
    if _PATH.fullmatch(text) is None:
        return text
    try:
        return today(text)
    except UnknownName:
        return text


def _class_path(path: Any) -> Any:
    return today(path) if isinstance(path, str) else path


def _rooms(words: list[str]) -> Iterator[Any]:
    """The packages of ours in which a name may stand, the closest to ``leyden.<words>`` first."""
    for length in range(len(words), -1, -1):
        try:
            yield importlib.import_module(".".join(["leyden", *words[:length]]))
        except ImportError:
            continue


def translate_what_is_loaded(mode: str) -> None:
    """Let what jsonargparse's loader of ``mode`` reads from a file be :func:`translated`, while :data:`reading`."""
    import yaml

    from leyden.cli.installed import jsonargparse

    if mode in _wrapped or mode not in ("yaml", "json", "omegaconf", "omegaconf+"):
        return
    try:
        load = jsonargparse.get_loader(mode)
    except KeyError:  # made when it is first used
        load = jsonargparse._loaders_dumpers.set_omegaconf_loader(mode) or jsonargparse.get_loader(mode)

    @functools.wraps(load)
    def loaded(*args: Any, **kwargs: Any) -> Any:
        value = load(*args, **kwargs)
        if not reading.get():
            return value
        refuse_wrong_parts(value)
        return translated(value)

    jsonargparse.set_loader(mode, loaded, (ValueError,) if mode == "json" else (yaml.YAMLError,))
    _wrapped.add(mode)
