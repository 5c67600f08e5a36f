"""Checkpoints that are a folder: its manifest, and what is done to it as a whole: put in place, copied, removed, checked."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from leyden.checkpoint.durable import Disk, beside_of, fcntl, write_failed
from leyden.checkpoint.replacing import METADATA as METADATA
from leyden.checkpoint.replacing import REST as REST
from leyden.checkpoint.replacing import remove_tree, replace
from leyden.errors import CheckpointDamaged, CheckpointForeign, CheckpointMissing
from leyden.version import __version__

MANIFEST = "manifest.json"
"""Written last: a folder without it was never finished."""
FORMAT = 1
_CHUNK = 1 << 20
_WHAT_TO_DO = "Take another checkpoint, or a copy of this one."


@dataclass(frozen=True)
class Manifest:
    """What belongs to a folder: each file's size in bytes and its CRC-32."""

    world: int
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        content: dict[str, Any] = {
            "format": FORMAT,
            "written_by": f"leyden {__version__}",
            "world_size": self.world,
            "files": {name: {"size": size, "crc32": crc} for name, (size, crc) in sorted(self.files.items())},
        }
        return json.dumps({**content, "checksum": _checksum(content)}, indent=1).encode()


def is_folder(path: str) -> bool:
    """Whether a checkpoint in the form of a folder stands at the local ``path``, finished or not, ours or another's."""
    return os.path.isdir(path) and any(os.path.exists(os.path.join(path, name)) for name in (MANIFEST, METADATA, REST))


def read_manifest(path: str) -> Manifest:
    """The manifest of the folder at ``path``.

    Raises:
        CheckpointMissing: there is nothing.
        CheckpointForeign: it is another's folder, or of a later version.
        CheckpointDamaged: there is no manifest, it was changed, or it names a file outside of the folder.
    """
    try:
        with open(os.path.join(path, MANIFEST), "rb") as file:
            text = file.read()
    except FileNotFoundError:
        if not os.path.lexists(path):
            raise CheckpointMissing(f"There is no checkpoint at {path!r}.") from None
        if not is_folder(path):
            raise CheckpointForeign(
                f"{path!r} is a folder. Expected the path of a checkpoint file, or a folder that a sharded save wrote."
            ) from None
        raise CheckpointDamaged(
            f"The checkpoint {path!r} is damaged: its {MANIFEST} is missing, which is written last: it was never finished, or "
            f"another program wrote it. {_WHAT_TO_DO}"
        ) from None
    try:
        content = json.loads(text)
        if type(content["format"]) is int and content["format"] > FORMAT:
            raise CheckpointForeign(
                f"{path!r} was written by {content.get('written_by', 'a later version')} in folder format {content['format']}, "
                f"and this version ({__version__}) reads formats up to {FORMAT}. Update leyden."
            )
        if content.pop("checksum") != _checksum(content):
            raise ValueError("its checksum does not match")
        files = {str(name): (int(each["size"]), int(each["crc32"])) for name, each in content["files"].items()}
        world = int(content["world_size"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointDamaged(
            f"The checkpoint {path!r} is damaged: its {MANIFEST} was changed ({error}). {_WHAT_TO_DO}"
        ) from None
    outside = next((name for name in files if not _is_inside(name)), None)
    if outside is not None:
        raise CheckpointDamaged(
            f"The checkpoint {path!r} is damaged: its {MANIFEST} names {outside!r}, which is not in the folder. {_WHAT_TO_DO}"
        )
    for name in (REST, METADATA):
        if name not in files:
            raise CheckpointDamaged(f"The checkpoint {path!r} is damaged: its {MANIFEST} does not name {name}. {_WHAT_TO_DO}")
    return Manifest(world, files)


def check_sizes(path: str, manifest: Manifest) -> None:
    """See that all files are there, and of their sizes. Raises :class:`CheckpointDamaged`, which names the first that is not."""
    for name, (size, _) in manifest.files.items():
        file = os.path.join(path, name)
        try:
            found = os.lstat(file)
        except FileNotFoundError:
            raise CheckpointDamaged(f"The checkpoint {path!r} is damaged: its file {name} is missing. {_WHAT_TO_DO}") from None
        if os.path.islink(file) or not os.path.isfile(file):
            raise CheckpointDamaged(f"The checkpoint {path!r} is damaged: {name} is no file of its own. {_WHAT_TO_DO}")
        if found.st_size != size:
            raise CheckpointDamaged(
                f"The checkpoint {path!r} is damaged: its file {name} has {found.st_size} bytes and was written with {size}. "
                f"{_WHAT_TO_DO}"
            )


def check_checksums(path: str, manifest: Manifest, names: Iterable[str]) -> None:
    """Read the files ``names`` and compare. Raises :class:`CheckpointDamaged`, which names the first that was changed."""
    for name in names:
        size, crc = sized(os.path.join(path, name))
        if (size, crc) != manifest.files[name]:
            raise CheckpointDamaged(
                f"The checkpoint {path!r} is damaged: the checksum of its file {name} does not match. {_WHAT_TO_DO}"
            )


def sized(path: str) -> tuple[int, int]:
    """The size of a file in bytes, and its CRC-32."""
    buffer = bytearray(_CHUNK)
    view, size, crc = memoryview(buffer), 0, 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(view):
            size, crc = size + count, zlib.crc32(view[:count], crc)
    return size, crc


def folder_size(path: str) -> int:
    """Bytes of all files in a folder."""
    return sum(entry.stat().st_size for entry in os.scandir(path) if entry.is_file())


# -- the folder as a whole
def begin(path: str, disk: Disk) -> tuple[str, int]:
    """An empty folder beside ``path`` to write into, and the descriptor of a lock on it: with the lock goes its protection."""
    beside = beside_of(os.path.abspath(path))
    remove_tree(beside)
    disk.make_folders(beside)
    descriptor = os.open(beside, os.O_RDONLY)
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: the process id in the name has to do
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    return beside, descriptor


def duplicate_folder(source: str, target: str, disk: Disk | None = None) -> None:
    """Make ``target`` a folder of its own with the content of ``source``: hard links where the disk has them, else copies.

    Raises :class:`CheckpointWriteFailed`: what stood there before is intact.
    """
    source, target, disk = os.path.abspath(source), os.path.abspath(target), disk or Disk()
    if os.path.exists(target) and os.path.samefile(source, target):
        return
    try:
        beside, descriptor = begin(target, disk)
    except OSError as error:
        raise write_failed(target, error) from error
    try:
        for name in sorted(os.listdir(source)):
            try:
                disk.link(os.path.join(source, name), os.path.join(beside, name))
            except OSError:
                shutil.copyfile(os.path.join(source, name), os.path.join(beside, name))
                with open(os.path.join(beside, name), "rb+") as file:
                    disk.sync_file(file)
        disk.sync_folder(beside)
        replace(beside, target, disk)
    except BaseException as error:
        remove_tree(beside)
        if isinstance(error, OSError):
            raise write_failed(target, error) from error
        raise
    finally:
        os.close(descriptor)


def remove_folder(path: str, disk: Disk) -> None:
    """Remove a checkpoint's folder: at once from its name, so that no half of it is ever found there."""
    beside = beside_of(os.path.abspath(path))
    remove_tree(beside)
    disk.replace(path, beside)
    remove_tree(beside)


def _is_inside(name: str) -> bool:
    return bool(name) and name not in (".", "..", MANIFEST) and not any(sign in name for sign in ("/", "\\", ":", "\0"))


def _checksum(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())
