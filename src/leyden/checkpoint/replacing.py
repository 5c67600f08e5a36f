"""Put a file or a folder under a name at once, whatever stands there, and remove either."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from contextlib import suppress
from typing import Protocol

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD
_KINDS_DIFFER = {errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.EPERM, errno.EACCES}
_REPLACED = re.compile(r"^\.(.+)\.leyden-replaced$", re.DOTALL)


class Renames(Protocol):
    """What a disk has to do for this."""

    def replace(self, source: str, target: str) -> None:
        """Rename, over a file or an empty folder."""

    def sync_folder(self, folder: str) -> None:
        """See that the names in ``folder`` are on the disk."""


def replace(source: str, target: str, disk: Renames) -> None:
    """Rename ``source`` to ``target``, whatever stands there: a file, or a folder that is not empty. Removes what stood there.

    Readers see the old one or the new one. Where the file system cannot exchange two names at once, the old one is under
    another name for a moment, under which :func:`recover` finds it after a crash.
    """
    try:
        disk.replace(source, target)
    except OSError as error:
        if error.errno not in _KINDS_DIFFER or not (os.path.isdir(source) or os.path.isdir(target)):
            raise
        if _exchanged(source, target):
            old = source
        else:
            old = replaced_name(target)
            remove_tree(old)
            os.rename(target, old)
            try:
                disk.replace(source, target)
            except OSError:
                os.rename(old, target)
                raise
        disk.sync_folder(os.path.dirname(target))
        remove_tree(old)
    else:
        disk.sync_folder(os.path.dirname(target))


def recover(folder: str) -> None:
    """Give back its name to what a crash left under another in :func:`replace`; remove what was replaced."""
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _REPLACED.match(name)
            if match is None:
                continue
            old, target = os.path.join(folder, name), os.path.join(folder, match.group(1))
            if os.path.lexists(target):
                remove_tree(old)
            else:
                os.rename(old, target)


def remove_tree(path: str) -> None:
    """Remove a file or a folder with what is in it; what is not there needs no removing."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(FileNotFoundError):
        os.unlink(path)


def replaced_name(target: str) -> str:
    """Where what stands at ``target`` is for the moment in which another takes its place."""
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.leyden-replaced")


def _exchanged(source: str, target: str) -> bool:
    """Exchange two names at once, where the system can do that."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(_HERE, os.fsencode(source), _HERE, os.fsencode(target), _EXCHANGE) == 0)
