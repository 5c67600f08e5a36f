"""One file that is no checkpoint, at a path or an URL: asked before the work whether it can be written, and written whole."""

from __future__ import annotations

import io
import os
from typing import Any

from leyden.checkpoint.durable import Disk, Sink, refuse_unwritable, write_durably
from leyden.checkpoint.files import is_remote, local_path, put_remote, reach, read_remote
from leyden.errors import CheckpointError, CheckpointMissing, InvalidOption, InvalidType
from leyden.types import Path


def check_place(name: str, place: Any, *, opened: bool = True) -> None:
    """Raise where nothing can be written to ``place``, the argument ``name``: a path, an URL, or with ``opened`` an open file.

    Raises:
        InvalidType: it is none of these, or a file that takes text.
        InvalidOption: it is the path of a folder, or no path, a file that is not open for writing, or an URL of no known kind.
        MissingPackage: what reaches the URL is not installed.
        CheckpointWriteFailed: nothing can be written into its folder, or that cannot be made.
    """
    expected = "a path, or a file that is open for writing bytes" if opened else "a path"
    if opened and hasattr(place, "write") and not isinstance(place, io.TextIOBase):
        if getattr(place, "closed", False) or not getattr(place, "writable", lambda: True)():
            raise InvalidOption(name, place, expected)
        return
    if not isinstance(place, str | os.PathLike):
        raise InvalidType(name, place, expected)
    path = os.fspath(place)
    if "\0" in path or not os.path.basename(path) or os.path.isdir(local_path(path)):
        raise InvalidOption(name, path, "the path of a file, and this is a folder" if "\0" not in path else "a path")
    if is_remote(path):
        reach(path)
    else:
        refuse_unwritable(os.path.dirname(os.path.abspath(local_path(path))), f"{name}={path!r} cannot be written")


def write_file(place: Path, content: bytes | memoryview) -> None:
    """Put ``content`` at a path or an URL: there is all of it, or what was there before.

    Raises :class:`CheckpointWriteFailed`.
    """
    path = os.fspath(place)
    if is_remote(path):
        put_remote(path, content, "file")
        return

    def fill(sink: Sink) -> None:
        sink.write(content)

    write_durably(local_path(path), fill, Disk())


def read_file(place: Path, what: str) -> bytes:
    """What stands at a path or an URL; errors call it ``what``, a plural.

    Raises :class:`CheckpointMissing` where there is nothing, and :class:`CheckpointError` where it cannot be read.
    """
    path = os.fspath(place)
    try:
        if is_remote(path):
            return read_remote(path)
        with open(local_path(path), "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointMissing(f"There are no {what} at {path!r}.") from error
    except OSError as error:
        raise CheckpointError(f"The {what} {path!r} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # it can be no path
        raise InvalidOption("path", path, "a path") from error
