"""Put a file or a folder under a name at once, whatever stands there, and remove either."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
from contextlib import suppress
from typing import Protocol

METADATA = ".metadata"
"""In a checkpoint that is a folder: PyTorch's own table of the tensors and where they lie."""
REST = "meta.pt"
"""In a checkpoint that is a folder: everything but the large tensors, as Lightning calls it."""

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
    """Rename ``source`` to ``target``, where a file may stand, or a checkpoint that is a folder. Removes what stood there.

    Raises:
        OSError: nothing was done; among other reasons because a folder of other things stands there, or a device.

    Readers see the old one or the new one. Where the file system cannot exchange two names at once, the old one is under
    another name for a moment, under which :func:`recover` finds it after a crash.
    """
    refuse_others(target, empty_is_free=os.path.isdir(source))
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


def refuse_others(target: str, empty_is_free: bool = False) -> None:
    """Raise ``OSError`` where something stands at ``target`` that no checkpoint may take the place of: it would be lost."""
    try:
        kind = os.lstat(target).st_mode
    except OSError:  # there is nothing; or whoever writes there is told what is wrong
        return
    if stat.S_ISDIR(kind):
        names = os.listdir(target)
        if not (METADATA in names or REST in names or (empty_is_free and not names)):
            raise IsADirectoryError(errno.EISDIR, "it is a folder, and no checkpoint: give the name of a file in it", target)
    elif not (stat.S_ISREG(kind) or stat.S_ISLNK(kind)):
        raise FileExistsError(errno.EEXIST, "it is a device, a pipe or a socket, and no file", target)


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
