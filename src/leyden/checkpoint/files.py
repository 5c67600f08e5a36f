"""Checkpoints to and from disk: the interface that users may implement, and the one that writes torch files."""

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from leyden.checkpoint.durable import Disk, Sink, write_durably
from leyden.checkpoint.folders import is_folder, remove_folder
from leyden.checkpoint.verified import bytes_verified, load_verified
from leyden.errors import (
    CheckpointError,
    CheckpointForeign,
    CheckpointMissing,
    CheckpointWriteFailed,
    InvalidOption,
    InvalidType,
    MissingPackage,
)
from leyden.spelling import exact_arguments
from leyden.types import Path


class CheckpointIO(ABC):
    """How a checkpoint gets to its storage and back. Knows nothing of what stands in it."""

    leyden_sharded: bool = False
    """Whether a checkpoint is to be a folder, into which every process writes."""

    @property
    def leyden_needs_folder(self) -> bool:
        """Whether a local path is written to as a path, so that its folder has to be one that can be written."""
        return False

    @abstractmethod
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` under ``path``, so that a reader finds the old content or the new one, never half of it.

        ``storage_options`` is what the caller of ``trainer.save_checkpoint`` passed on for this storage.
        """

    @abstractmethod
    def load_checkpoint(self, path: Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read what was written under ``path``. ``weights_only=False`` allows code that stands in the file to run."""

    @abstractmethod
    def remove_checkpoint(self, path: Path) -> None:
        """Remove what was written under ``path``. What is not there needs no removing."""

    def leyden_write(self, write: Callable[..., None], checkpoint: dict[str, Any], *where: Any) -> None:
        """Let ``write(checkpoint, *where)`` write, now or in the background."""
        write(checkpoint, *where)

    def leyden_settle(self) -> None:  # noqa: B027  # most storages have written when they return
        """Return when everything that was asked for is written."""

    def teardown(self) -> None:  # noqa: B027  # most storages hold nothing that has to be ended
        """End what was started. Called once, when the last verb of a trainer ends."""


@exact_arguments
class TorchCheckpointIO(CheckpointIO):
    """One torch zip file a checkpoint; written durably, and verified by its checksums when read.

    Local paths are written beside their target, flushed, synced and renamed. Paths with ``://`` go through fsspec, whole.

    Args:
        disk: The system calls to use. For tests that let one of them fail.
    """

    @property
    def leyden_needs_folder(self) -> bool:
        return type(self).save_checkpoint is TorchCheckpointIO.save_checkpoint

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        self._folders: set[str] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` with ``torch.save``.

        ``storage_options`` (a dict) goes to fsspec where ``path`` has ``://`` in it, and means nothing for a local path.

        Raises:
            CheckpointWriteFailed: disk full, permission lost ... What stood under ``path`` before is intact.
        """
        path = os.fspath(path)
        if is_remote(path):
            _write_remote(checkpoint, path, storage_options)
            return
        path = local_path(path)
        folder = os.path.dirname(os.path.abspath(path))

        def fill(sink: Sink) -> None:
            with _checksums_on():
                torch.save(checkpoint, sink)  # type: ignore[arg-type]  # torch calls nothing but write and flush

        write_durably(path, fill, self._disk, folder_existed=folder in self._folders)
        self._folders.add(folder)

    def load_checkpoint(self, path: Path, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read and verify. Tensors come back on the CPU unless ``map_location`` says otherwise.

        Raises:
            CheckpointMissing, CheckpointDamaged, CheckpointForeign: as the names say; each names the file.
        """
        path = os.fspath(path)
        place = "cpu" if map_location is None else map_location
        if not is_remote(path) and is_folder(local_path(path)):
            from leyden.checkpoint.shards import read_folder  # PyTorch's distributed checkpoint takes a second to import

            return read_folder(local_path(path), map_location, weights_only)
        if is_remote(path):
            loaded = bytes_verified(read_remote(path), path, place, weights_only)
        else:
            loaded = load_verified(local_path(path), place, weights_only)
        if not isinstance(loaded, dict):
            raise CheckpointForeign(f"{path!r} is no checkpoint: it holds a {type(loaded).__name__}, expected a dict.")
        return loaded

    def remove_checkpoint(self, path: Path) -> None:
        path = os.fspath(path)
        if is_remote(path):
            filesystem, place = reach(path)
            with suppress(FileNotFoundError):
                filesystem.rm(place, recursive=True)
            return
        path = local_path(path)
        with suppress(FileNotFoundError):
            if is_folder(path):
                remove_folder(path, self._disk)
            else:
                self._disk.remove(path)


def is_remote(path: str) -> bool:
    """Whether ``path`` names a place that only fsspec can reach."""
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> str:
    """``path`` without ``file://``, and with the user's folder in place of a tilde, as a shell puts it."""
    return os.path.expanduser(path.removeprefix("file://"))


def absolute(path: str) -> str:
    """``path`` as it stays right wherever the process goes; an URL as it is."""
    return path if is_remote(path) else os.path.abspath(local_path(path))


def read_folder(name: str, given: object) -> str | None:
    """The folder that the user gave as ``name``, as it stays right; raises :class:`InvalidType` for what is no path."""
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike):
        raise InvalidType(name, given, "a path, an URL, or None")
    return absolute(os.fspath(given))


def reach(path: str, storage_options: Any = None) -> tuple[Any, str]:
    """The fsspec file system behind an URL, and what ``path`` is called there.

    Raises:
        MissingPackage: the package for this kind of URL is not installed.
        InvalidOption: fsspec knows no such kind.
    """
    import fsspec  # type: ignore[import-untyped]  # it has no type information

    try:
        filesystem, place = fsspec.core.url_to_fs(path, **(storage_options or {}))
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None)  # the module that fsspec wanted
        raise MissingPackage((missing or path.split("://")[0] + "fs").split(".")[0], f"The path {path!r}") from error
    except ValueError as error:
        raise InvalidOption("path", path, "a local path, or an URL of a kind that fsspec knows") from error
    return filesystem, place


@contextmanager
def _checksums_on() -> Iterator[None]:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _write_remote(checkpoint: dict[str, Any], path: str, storage_options: Any) -> None:
    # In one piece: a stream that fails half-way is published half by some storages when it is closed.
    buffer = io.BytesIO()
    with _checksums_on():
        torch.save(checkpoint, buffer)
    put_remote(path, buffer.getvalue(), "checkpoint", storage_options)


def put_remote(path: str, content: bytes | memoryview, what: str, storage_options: Any = None) -> None:
    """Put a file, ``what`` errors call it so, at an URL.

    Raises:
        CheckpointWriteFailed: the storage did not take it.
        InvalidOption: to that kind of URL nothing can be written.
    """
    filesystem, place = reach(path, storage_options)
    try:
        filesystem.makedirs(filesystem._parent(place), exist_ok=True)
        filesystem.pipe_file(place, bytes(content))
    except NotImplementedError as error:
        raise InvalidOption("path", path, "an URL of a kind that can be written to") from error
    except Exception as error:  # each storage has its own
        why = str(error) or type(error).__name__
        failed = CheckpointWriteFailed(f"The {what} {path!r} could not be written: {why}. What stood there before is intact.")
        failed.errno, failed.filename = getattr(error, "errno", None), path
        raise failed from error


def read_remote(path: str) -> bytes:
    """What stands at an URL. Raises :class:`CheckpointMissing`, and :class:`CheckpointError` where it cannot be read."""
    filesystem, place = reach(path)
    try:
        content: bytes = filesystem.cat_file(place)
    except FileNotFoundError as error:
        raise CheckpointMissing(f"There is no checkpoint at {path!r}.") from error
    except Exception as error:  # each storage has its own
        raise CheckpointError(f"{path!r} cannot be read: {str(error) or type(error).__name__}.") from error
    return content


def load(path_or_url: Path, map_location: Any = None) -> Any:
    """What stands in a checkpoint, by the name of 1.x. No code runs while it is read."""
    return TorchCheckpointIO().load_checkpoint(path_or_url, map_location)
