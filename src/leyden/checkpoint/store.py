"""Where checkpoints lie: what is there, since when, in which order, and what is done to it besides writing and reading."""

from __future__ import annotations

import glob
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar, final

from leyden.checkpoint.durable import clean_leftovers, duplicate, hold_folder, is_held_here, let_go, quarantine, refuse_unwritable
from leyden.checkpoint.files import CheckpointIO, TorchCheckpointIO, absolute, is_remote, local_path, reach
from leyden.checkpoint.folders import duplicate_folder, is_folder
from leyden.checkpoint.naming import FILE_EXTENSION
from leyden.checkpoint.verified import peek
from leyden.distributed.processes import Alone, Processes
from leyden.errors import InvalidOption, MissingPackage

Answer = TypeVar("Answer")
_ASIDE = re.compile(r"\.damaged(-\d+)?$")  # what was put aside, where files have no extension
_LOOKED_INTO = 200  # files at the most


@dataclass(frozen=True)
class Place:
    """A folder where checkpoints may lie."""

    folder: str
    extension: str = FILE_EXTENSION
    depth: int = 0  # of subfolders that a name such as "{epoch}/model" makes
    last: str = "last"  # how the name of the newest begins


class CheckpointStore(ABC):
    """What is asked about checkpoints, and done with them, without looking into them.

    Every method is called on all processes, with the same arguments. The first one asks the disk, and all have its answer,
    or its error.
    """

    since: float | None = None
    """Where it is set, :meth:`newest` passes over files that were last changed before: seconds since 1970."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether anything is at ``path``."""

    @abstractmethod
    def worth_reading(self, paths: Iterable[str]) -> list[str]:
        """Those of ``paths`` that are not known to be gone, in their order."""

    @abstractmethod
    def written_at(self, path: str) -> float | None:
        """When ``path`` was written: a number that is compared with others of this store only. ``None``: gone, or not known.

        What the file says counts, which neither a clock that was set back nor a copy changes.
        """

    @abstractmethod
    def newest(self, places: Iterable[Place]) -> list[str]:
        """All checkpoints in ``places``, in the order in which to try them for ``ckpt_path="last"``: the newest first.

        What the files say counts; of files that do not say it, and of URLs, the time of their last change.
        Of two of one age ``last`` is tried first. Whether they are whole is seen when they are read.
        """

    @abstractmethod
    def folders(self, patterns: Iterable[str]) -> list[str]:
        """The folders whose absolute paths match one of the ``patterns`` of :mod:`glob`, by name."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """What stands in ``folder``, by name; nothing where there is none."""

    def newer_versions(self, path: str) -> list[str]:
        """The newest folder ``version_n`` beside that of the checkpoint ``path``, where there is one of a higher number."""
        folder = path
        while (above := os.path.dirname(folder)) != folder:
            folder = above
            number = _version(os.path.basename(folder))
            if number >= 0:
                newest = max(self.names(os.path.dirname(folder)), key=_version, default="")
                return [newest] if _version(newest) > number else []
        return []

    @abstractmethod
    def duplicate(self, source: str, target: str, *, just_saved: bool = False) -> bool:
        """Make ``target`` a checkpoint of its own with the content of ``source``, without a second copy where that is possible.

        False where it cannot be done, as with one that was ``just_saved`` and may still be on its way, or that a CheckpointIO
        of the user's own wrote: then the same state has to be saved again.

        Raises:
            CheckpointWriteFailed: ``target`` could not be written. What stood there before is intact.
        """

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove the checkpoint at ``path``, once what is being written is safe. What is not there needs no removing."""

    @abstractmethod
    def quarantine(self, path: str) -> str | None:
        """Set a damaged checkpoint aside and return its new path; ``None`` where it cannot be moved."""

    @abstractmethod
    def hold(self, folders: Iterable[str], *, nested: bool = False) -> None:
        """See that no other run writes into ``folders``, until :meth:`let_go`. One that cannot be held is passed over.

        So is, of a ``nested`` run, one that this process holds: whoever fits inside another fit's hook knows of both.

        Raises:
            BlockingIOError: another run holds one of them; ``filename`` says which.
        """

    @abstractmethod
    def let_go(self) -> None:
        """End all holds."""

    @abstractmethod
    def clean(self, folder: str, *, chosen: bool = False) -> None:
        """Remove what a crash left half-written in ``folder``, into which a run is going to write.

        ``chosen`` says that nobody gave the folder: the run chose it.

        Raises:
            CheckpointWriteFailed: nothing can be written there.
            MissingPackage, InvalidOption: it is an URL of a kind that cannot be reached.
        """


@final
class FileStore(CheckpointStore):
    """Checkpoints that are a file or a folder each, under local paths, and files under URLs that fsspec knows.

    Args:
        processes: Those that train together.
        checkpoint_io: What writes them. Default: :class:`TorchCheckpointIO`.
    """

    def __init__(self, processes: Processes | None = None, checkpoint_io: CheckpointIO | None = None) -> None:
        self._processes = processes or Alone()
        self._checkpoint_io = checkpoint_io or TorchCheckpointIO()
        self._holds: dict[str, int] = {}  # folders, and the descriptors of their locks

    def __reduce__(self) -> tuple[Any, ...]:
        return FileStore, ()  # a copy belongs to no run, and holds nothing

    def exists(self, path: str) -> bool:
        return self._ask(lambda: self._exists(path))

    def worth_reading(self, paths: Iterable[str]) -> list[str]:
        # a storage that does not answer at the moment would look like one that has nothing: reading says which. Nor is anything
        # known of where a CheckpointIO of the user's own keeps them
        elsewhere = not self._checkpoint_io.leyden_needs_folder
        return self._ask(lambda: [path for path in paths if elsewhere or is_remote(path) or _exists(path)])

    def written_at(self, path: str) -> float | None:
        return self._ask(lambda: _written_at(path))

    def newest(self, places: Iterable[Place]) -> list[str]:
        def found() -> list[str]:
            ages: dict[str, tuple[int, bool]] = {}
            for place in places:
                for changed, is_last, path in _found(place):
                    ages[path] = changed, is_last or ages.get(path, (0, False))[1]
            if self.since is not None:
                ages = {path: age for path, age in ages.items() if not is_remote(path) and os.path.getmtime(path) >= self.since}
            said = _order(ages)
            return sorted(ages, key=lambda path: (said[path], *ages[path][::-1], os.path.basename(path), path), reverse=True)

        return self._ask(found)

    def folders(self, patterns: Iterable[str]) -> list[str]:
        return self._ask(lambda: sorted({os.path.abspath(path) for pattern in patterns for path in glob.glob(pattern)}))

    def names(self, folder: str) -> list[str]:
        return self._ask(lambda: sorted(os.path.basename(path) for path, *_ in _entries(folder)))

    def duplicate(self, source: str, target: str, *, just_saved: bool = False) -> bool:
        # what a CheckpointIO of the user's own writes beside, or in place of, the file at that path is not known
        again = not self._checkpoint_io.leyden_needs_folder or (just_saved and hasattr(self._checkpoint_io, "wait"))

        def linked() -> bool:
            if again or is_remote(source) or not (os.path.isfile(local_path(source)) or is_folder(local_path(source))):
                return False
            deed = duplicate_folder if is_folder(local_path(source)) else duplicate
            deed(local_path(source), local_path(target))
            return True

        return self._ask(linked)

    def remove(self, path: str) -> None:
        self._ask(lambda: self._checkpoint_io.remove_checkpoint(path))

    def quarantine(self, path: str) -> str | None:
        return self._ask(lambda: _quarantined(path))

    def hold(self, folders: Iterable[str], *, nested: bool = False) -> None:
        self._ask(lambda: self._hold(map(absolute, folders), nested))

    def let_go(self) -> None:
        while self._holds:
            let_go(self._holds.popitem()[1])

    def clean(self, folder: str, *, chosen: bool = False) -> None:
        self._ask(lambda: self._make_ready(folder, chosen))

    def _exists(self, path: str) -> bool:
        try:
            return _exists(path)
        except (InvalidOption, MissingPackage):
            if self._checkpoint_io.leyden_needs_folder:
                raise
            return False  # an URL of a kind that a CheckpointIO of the user's own alone can reach

    def _make_ready(self, folder: str, chosen: bool) -> None:
        if is_remote(folder):
            if self._checkpoint_io.leyden_needs_folder:
                reach(folder)
            return
        folder = local_path(folder)
        if self._checkpoint_io.leyden_needs_folder:
            advice = "Give the Trainer another default_root_dir, or ModelCheckpoint a dirpath." if chosen else ""
            refuse_unwritable(folder, advice=advice)
        clean_leftovers(folder)

    def _hold(self, folders: Iterable[str], nested: bool) -> None:
        for folder in folders:
            if folder in self._holds or is_remote(folder):
                continue
            try:
                descriptor = hold_folder(folder)
            except BlockingIOError as error:
                if nested and is_held_here(folder):
                    continue
                raise BlockingIOError(error.errno, error.strerror, folder) from error
            except (OSError, ValueError):
                continue  # it cannot be made: whoever is to write there will say so
            if descriptor is not None:
                self._holds[folder] = descriptor

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        if self._processes.alone:
            return question()
        answer, error = self._processes.once(lambda: _answered(question))
        if error is not None:
            raise error
        return answer  # type: ignore[no-any-return]  # what went through the other processes is Any


def _answered(question: Callable[[], Answer]) -> tuple[Answer | None, Exception | None]:
    """The answer, or else the error: an error on one process alone would leave the others waiting."""
    try:
        return question(), None
    except Exception as error:
        return None, error


def _exists(path: str) -> bool:
    if not is_remote(path):
        return os.path.exists(local_path(path))
    filesystem, place = reach(path)
    return bool(filesystem.exists(place))


def _written_at(path: str) -> float | None:
    if is_remote(path):
        return None
    try:
        return _says(path) or os.stat(local_path(path)).st_mtime_ns
    except OSError:
        return None


def _order(ages: dict[str, tuple[int, bool]]) -> dict[str, int]:
    """A number for each path by which the newer of two is known, from when they were changed, and whether they are the last.

    One that does not say when it was written comes after those that had their last change before it.
    """
    # looking into a file takes a moment: of very many only those that are likely
    likely = sorted(ages, key=lambda path: (ages[path][1], ages[path][0]), reverse=True)[:_LOOKED_INTO]
    said = {path: _says(path) for path in likely}
    order, newest = {}, 0
    for path in sorted(ages, key=lambda path: ages[path][0]):
        order[path] = said.get(path) or max(newest, ages[path][0])
        newest = max(newest, order[path])
    return order


def _says(path: str) -> int | None:
    """When the file says that it was written, in ns since 1970: never before an earlier one of the same run."""
    content = None if is_remote(path) else peek(local_path(path))
    ours = content.get("leyden") if isinstance(content, dict) else None
    said = ours.get("saved") if isinstance(ours, dict) else None
    return said if type(said) is int and said > 0 else None


def _version(name: str) -> int:
    digits = name.removeprefix("version_")
    return int(digits) if digits != name and digits.isdecimal() else -1


def _entries(folder: str) -> Iterator[tuple[str, int, bool]]:
    """What stands in ``folder``: path, time of the last change in ns, whether it is a folder. Nothing where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        if is_remote(folder):
            filesystem, place = reach(folder)
            for entry in filesystem.ls(place, detail=True):
                name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
                yield f"{folder.rstrip('/')}/{name}", _changed(filesystem, entry), entry["type"] == "directory"
            return
        with os.scandir(local_path(folder)) as entries:
            for each in entries:
                with suppress(OSError):  # gone since it was listed, or a symbolic link that leads nowhere
                    yield each.path, each.stat().st_mtime_ns, each.is_dir()


def _changed(filesystem: Any, entry: dict[str, Any]) -> int:
    if entry["type"] != "directory":  # object storages know no time of those
        with suppress(NotImplementedError, FileNotFoundError):
            return int(filesystem.modified(entry["name"]).timestamp() * 1e9)
    return 0


def _found(place: Place) -> Iterator[tuple[int, bool, str]]:
    """The checkpoints in ``place``: their age, whether they are called ``last``, and their path."""
    for path, changed, is_directory in _entries(place.folder):
        name = os.path.basename(path)
        if name.startswith(".") or _ASIDE.search(name):
            continue
        if name.endswith(place.extension) and (place.extension or not is_directory or is_folder(path)):
            yield changed, bool(re.match(rf"{re.escape(place.last)}(-v\d+)?$", name.removesuffix(place.extension))), path
        elif is_directory and place.depth and not _leads_back(path):
            yield from _found(replace(place, folder=path, depth=place.depth - 1))


def _leads_back(folder: str) -> bool:
    """Whether a symbolic link leads to a folder in which it stands itself."""
    if is_remote(folder) or not os.path.islink(folder):
        return False
    target = os.path.realpath(folder)
    return os.path.commonpath([target, os.path.realpath(os.path.dirname(folder))]) == target


def _quarantined(path: str) -> str | None:
    if is_remote(path):
        return None  # renaming there is copying, and it is no file of this machine's
    try:
        return quarantine(local_path(path))
    except OSError:
        return None  # gone already, or in a folder that may only be read
