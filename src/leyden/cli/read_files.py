"""The configuration files that a command line reads, as far as an error has to name one, and what no file may say."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from leyden.errors import InvalidType

_being_read: ContextVar[str | None] = ContextVar("leyden_file_being_read", default=None)
_read: ContextVar[dict[str, Any] | None] = ContextVar("leyden_files_read", default=None)
_UNKNOWN_KEY = re.compile(r"(?:(?:Group|Subcommand) '([\w.]+)' does not accept option|Option) '([^']+)'")
"""What is said of keys when everything is read, and the parser no longer knows where they stood."""


@contextlib.contextmanager
def reading_files() -> Iterator[None]:
    """Files that are read inside are remembered until its end."""
    before = _read.set({})
    try:
        yield
    finally:
        _read.reset(before)


@contextlib.contextmanager
def reading_file(path: Any) -> Iterator[None]:
    """What goes wrong inside is about the file at ``path``."""
    before = _being_read.set(os.fspath(path))
    try:
        yield
    finally:
        _being_read.reset(before)


def remember_file(path: Any, keys: Any) -> None:
    """The file at ``path`` is read, and says something of ``keys``."""
    read = _read.get()
    if read is not None:
        read[os.fspath(path)] = list(keys)


def file_of(message: str) -> str | None:
    """The file that an error's ``message`` is about; ``None`` where it is about none, or none is known."""
    found = _UNKNOWN_KEY.search(message)
    if _being_read.get() is not None or found is None:
        return _being_read.get()
    known = {found[2], f"{found[1]}.{found[2]}"}
    holders = [
        path for path, keys in (_read.get() or {}).items() if any(key in known or key.endswith(f".{found[2]}") for key in keys)
    ]
    return holders[-1] if holders else None


def refuse_wrong_parts(value: Any, path: str = "") -> None:
    """Raise :class:`InvalidType` for a class in a configuration whose path is no text, or whose arguments have no names."""
    if isinstance(value, dict):
        if "class_path" in value and value.keys() <= {"class_path", "init_args", "dict_kwargs"}:
            if not isinstance(value["class_path"], str) or not value["class_path"]:
                raise InvalidType(f"{path}class_path", value["class_path"], "the import path of a class, or its name")
            for key in ("init_args", "dict_kwargs"):
                if not isinstance(value.get(key, {}), dict):
                    raise InvalidType(f"{path}{key}", value[key], f"the arguments of {value['class_path']} by name")
        for key, item in value.items():
            refuse_wrong_parts(item, f"{path}{key}.")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            refuse_wrong_parts(item, f"{path.removesuffix('.')}[{number}].")
