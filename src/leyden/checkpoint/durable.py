"""Put a file on a local disk so that a crash, a full disk or a lost folder never leaves half of it under its name."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import IO, Any

from leyden.checkpoint.replacing import recover, refuse_others, remove_tree, replace
from leyden.errors import CheckpointWriteFailed, LeydenWarning, warn_user

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well
    fcntl = None

_LONGEST = 100  # bytes of a name to which something may be added
_LEFTOVER = re.compile(r"^\..+\.(\d+)\.leyden-tmp$", re.DOTALL)
# A folder cannot be synced on every file system, and where it cannot, there is nothing to lose by not doing it.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS}


_held: dict[int, list[str]] = {}  # descriptors of locks, and the folders that were made for them


class Disk:
    """The system calls of a durable write, one method each, so that a test can let any of them fail."""

    def make_folders(self, folder: str) -> None:
        os.makedirs(folder, exist_ok=True)

    def open(self, path: str) -> IO[bytes]:
        return open(path, "wb")

    def lock(self, file: IO[bytes]) -> None:
        """Mark the file as being written. The mark goes with the process, however it ends."""
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks: the process id in the name has to do
                fcntl.flock(file, fcntl.LOCK_EX)

    def write(self, file: IO[bytes], data: Any) -> int:
        return file.write(data)

    def flush(self, file: IO[bytes]) -> None:
        file.flush()

    def sync_file(self, file: IO[bytes]) -> None:
        os.fsync(file.fileno())

    def close(self, file: IO[bytes]) -> None:
        file.close()

    def replace(self, source: str, target: str) -> None:
        os.replace(source, target)

    def link(self, source: str, target: str) -> None:
        os.link(source, target)

    def sync_folder(self, folder: str) -> None:
        if os.name == "nt":
            return  # a folder has no descriptor there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise
        finally:
            os.close(descriptor)

    def remove(self, path: str) -> None:
        os.remove(path)


class Sink:
    """What a serialiser writes into. A failed write is remembered, not raised.

    An exception that passes through a serialiser written in C++ may come out as another one, or not at all.
    """

    def __init__(self, file: IO[bytes], disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self._disk.write(self._file, data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the whole file is flushed once, at its end."""


def sync_together(folder: str, names: Iterable[str], disk: Disk) -> None:
    """See that the files ``names`` in ``folder``, and the folder, are on the disk. Raises what a system call raised.

    At once: one after the other, each would wait for a commit of the file system of its own.
    """
    errors: list[BaseException] = []

    def sync(name: str) -> None:
        try:
            with open(os.path.join(folder, name), "rb+") as file:
                disk.sync_file(file)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=sync, args=(name,), name="leyden: sync", daemon=True) for name in names]
    for thread in threads:
        thread.start()
    try:
        disk.sync_folder(folder)
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def write_durably(path: str, fill: Callable[[Sink], None], disk: Disk, *, folder_existed: bool = False) -> None:
    """Let ``fill`` write the content, and put it under ``path`` only when all of it is on the disk.

    Written beside the target, flushed, synced, renamed; then the folder is synced. Missing folders are made; where
    ``folder_existed`` says that there was one before, or where it vanishes during the write, this is said in a warning.

    Raises:
        CheckpointWriteFailed: a system call failed. What stood under ``path`` before is intact, and the temporary
            file is gone.
    """
    path = os.path.abspath(path)
    try:
        refuse_others(path)
        _make_folder(path, disk, folder_existed)
        try:
            _write_beside_and_rename(path, fill, disk)
        except FileNotFoundError:
            if os.path.isdir(os.path.dirname(path)):
                raise
            _make_folder(path, disk, folder_existed=True)
            _write_beside_and_rename(path, fill, disk)
    except OSError as error:
        raise write_failed(path, error) from error


def put_in_place(path: str, content: bytes) -> None:
    """Write a small file beside ``path`` and rename it: readers see the old one or the new one. Nothing is forced to disk."""
    beside = beside_of(path)
    try:
        with open(beside, "wb") as file:
            Disk().lock(file)  # so that nobody takes it for a leftover
            file.write(content)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            os.unlink(beside)
        raise


def duplicate(source: str, target: str, disk: Disk | None = None) -> None:
    """Make ``target`` a file of its own with the content of ``source``: a hard link where the disk has them, else a copy.

    Durable as :func:`write_durably`. No file of ours is ever changed in place, so that both names may share one content.

    Raises:
        CheckpointWriteFailed: as :func:`write_durably`.
    """
    disk = disk or Disk()
    source, target = os.path.abspath(source), os.path.abspath(target)
    beside = beside_of(target)
    try:
        if os.path.exists(target) and os.path.samefile(source, target):
            return  # renaming one link of a file onto another does nothing, and would leave the temporary name behind
        with suppress(OSError):
            disk.remove(beside)
        try:
            disk.link(source, beside)
        except OSError:
            pass
        else:
            try:
                replace(beside, target, disk)
            except OSError:
                with suppress(OSError):
                    disk.remove(beside)
                raise
            return
    except OSError as error:
        raise write_failed(target, error) from error

    def copy(sink: Sink) -> None:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, sink, 1 << 20)

    write_durably(target, copy, disk)


def clean_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove the temporary files and folders that a crash left in ``folder``, and return their paths.

    A file that a living process writes at the moment is left alone. A folder that does not exist holds none.
    """
    removed = []
    recover(os.fspath(folder))
    try:
        entries = sorted(entry.path for entry in os.scandir(folder) if _LEFTOVER.match(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for path in entries:
        if _remove_if_abandoned(path):
            removed.append(path)
    return removed


def refuse_unwritable(folder: str | os.PathLike[str], saying: str = "", advice: str = "") -> None:
    """Raise :class:`CheckpointWriteFailed` where no file can be written into ``folder``, or it cannot be made.

    ``saying`` is what cannot be done then; by default, to write a checkpoint. ``advice`` says what to give instead. A file
    without content is written there, and removed again with all folders that had to be made for it.
    """
    why = _why_unwritable(os.path.abspath(folder))
    if not why:
        return
    advice = advice or ("Give another path." if saying else "Give another dirpath.")
    failed = CheckpointWriteFailed(f"{saying or f'No checkpoint can be written into {os.fspath(folder)!r}'}: {why}. {advice}")
    failed.filename = os.fspath(folder)
    raise failed


def _why_unwritable(folder: str) -> str:
    missing: list[str] = []
    try:
        missing = _missing(folder)
        there = os.path.dirname(missing[-1]) if missing else folder
        if not os.path.isdir(there):
            return f"{there} is a file, and no folder"
        if not os.access(there, os.W_OK | os.X_OK):
            return f"nothing may be written into {there}"
        os.makedirs(folder, exist_ok=True)  # rights are not all: file systems refuse on their own
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:  # it can be no path
        return str(error)
    finally:
        with suppress(OSError, ValueError):  # somebody else may be using them by now
            for made in missing:
                os.rmdir(made)


def hold_folder(folder: str | os.PathLike[str]) -> int | None:
    """Hold ``folder``, which is made if need be, until :func:`let_go` of what is returned, or until the process ends.

    The hold is a lock on the folder itself: nothing is written, and no death of a process leaves one behind. A child process
    does not share it. ``None`` where the system or the file system has no such locks.

    Raises:
        BlockingIOError: another process holds it, or this one does already.
    """
    if fcntl is None:
        return None
    while True:
        made = _missing(os.path.abspath(folder))
        os.makedirs(folder, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_nlink == 0 or not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                os.close(descriptor)  # the one who had it has just removed it
                continue
        except FileNotFoundError:
            os.close(descriptor)
            continue
        except BlockingIOError:
            os.close(descriptor)
            raise
        except OSError:
            os.close(descriptor)
            return None
        _close_in_children()
        _held[descriptor] = made
        return descriptor


def let_go(descriptor: int) -> None:
    """End a hold. Folders that were made for it alone, and are still empty, are removed."""
    for folder in _held.pop(descriptor, []):
        try:
            os.rmdir(folder)
        except OSError:
            break
    os.close(descriptor)


def is_held_here(folder: str | os.PathLike[str]) -> bool:
    """Whether this very process holds ``folder``."""
    try:
        there = os.stat(folder)
        return any(os.path.samestat(os.fstat(descriptor), there) for descriptor in _held)
    except OSError:
        return False


def _missing(folder: str) -> list[str]:
    """``folder`` and those above it that are not there, the innermost first."""
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return missing


@functools.cache
def _close_in_children() -> None:
    """Once in a process: workers may outlive a killed process, and must not hold on."""
    os.register_at_fork(after_in_child=_let_go_in_child)


def quarantine(path: str | os.PathLike[str]) -> str:
    """Rename a bad file to ``NAME.damaged`` (``NAME.damaged-1`` and on where that is taken) and return the new path."""
    path = os.fspath(path)
    folder, name = os.path.split(path)
    base = os.path.join(folder, f"{_shortened(name, 240)}.damaged")
    new, number = base, 0
    while os.path.lexists(new):
        number += 1
        new = f"{base}-{number}"
    os.replace(path, new)
    return new


def beside_of(path: str) -> str:
    """The temporary name under which ``path`` is written before it is renamed; :func:`clean_leftovers` knows it."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{_shortened(name)}.{os.getpid()}.leyden-tmp")


def _shortened(name: str, longest: int = _LONGEST) -> str:
    """``name``, or a part of it and a checksum of all of it: something is added, and file systems take some 250 bytes."""
    if len(os.fsencode(name)) <= longest:
        return name
    return f"{name[:16]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:24]}"


def _write_beside_and_rename(path: str, fill: Callable[[Sink], None], disk: Disk) -> None:
    beside = beside_of(path)
    file = _open_locked(beside, disk)
    try:
        try:
            sink = Sink(file, disk)
            try:
                fill(sink)
            except Exception as error:
                if sink.error is None:
                    raise
                raise sink.error from error
            if sink.error is not None:
                raise sink.error
            disk.flush(file)
            disk.sync_file(file)
        except BaseException:
            with suppress(OSError):  # a full disk makes the close fail too, and the first failure is the one to tell
                file.close()
            raise
        # Renamed while it is still open where that is possible, because the lock goes with the close.
        if os.name == "nt":
            disk.close(file)
        replace(beside, path, disk)
    except BaseException:
        with suppress(OSError):
            disk.remove(beside)
        raise
    finally:
        with suppress(OSError):
            file.close()


def _open_locked(beside: str, disk: Disk) -> IO[bytes]:
    while True:
        file = disk.open(beside)
        try:
            disk.lock(file)
            if os.fstat(file.fileno()).st_nlink > 0:
                return file
        except BaseException:
            file.close()
            with suppress(OSError):
                disk.remove(beside)
            raise
        file.close()  # another process took it for a leftover before the lock was held


def _make_folder(path: str, disk: Disk, folder_existed: bool) -> None:
    folder = os.path.dirname(path)
    if os.path.isdir(folder):
        return
    new, parent = folder, os.path.dirname(folder)
    while not os.path.isdir(parent) and os.path.dirname(parent) != parent:
        new, parent = parent, os.path.dirname(parent)
    disk.make_folders(folder)
    while True:  # a new folder's name stands in its parent
        disk.sync_folder(os.path.dirname(new))
        if new == folder:
            break
        new = os.path.join(new, os.path.relpath(folder, new).split(os.sep)[0])
    if folder_existed:
        warn_user(
            f"The folder {folder!r} was deleted while the run went on. It was made again; what stood in it is lost.",
            LeydenWarning,
        )


def write_failed(path: str, error: BaseException, where: str = "") -> CheckpointWriteFailed:
    """The error that says that ``path`` could not be written, ``where`` it happened, and why."""
    cause = (getattr(error, "strerror", None) or str(error) or type(error).__name__) + where
    failed = CheckpointWriteFailed(
        f"The checkpoint {path!r} could not be written: {cause}. What stood there before is intact. "
        "Make room or give permission, or write to another folder."
    )
    failed.errno = getattr(error, "errno", None)
    failed.filename = path
    return failed


def _let_go_in_child() -> None:
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


def _remove_if_abandoned(path: str) -> bool:
    match = _LEFTOVER.match(os.path.basename(path))
    try:
        if fcntl is None:
            os.remove(path)  # fails while the file is open
            return True
        descriptor = os.open(path, os.O_RDONLY)  # of a file, or of a folder
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # no locks on this file system
                if match is None or _is_alive(int(match.group(1))):
                    return False
            remove_tree(path)
            return True
        finally:
            os.close(descriptor)
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
