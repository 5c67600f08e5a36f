"""The folder of a run below an experiment's: ``save_dir/name/version_N``, with the next free N where none was asked for."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from leyden.checkpoint.durable import clean_leftovers
from leyden.checkpoint.files import reach
from leyden.distributed.rank_zero import rank_zero_only
from leyden.errors import InvalidOption, InvalidType, LeydenWarning, warn_user
from leyden.types import Path

_VERSION = "a number >= 0, a string, or None for the next free number"


class RunFolder:
    """Where a logger writes. Nothing is created before :meth:`claim`. ``writes`` says of a file's name whether this run's logger
    would not go on in a folder that holds it: another run wrote it."""

    def __init__(
        self,
        save_dir: Path,
        name: str | None,
        version: int | str | None,
        sub_dir: Path | None = None,
        *,
        writes: Callable[[str], bool],
    ) -> None:
        if not isinstance(save_dir, str | os.PathLike):
            raise InvalidType("save_dir", save_dir, "a path or an URL")
        if name is not None and not isinstance(name, str):
            raise InvalidType("name", name, "a string, or None for no folder of its own")
        if isinstance(version, bool) or not (version is None or isinstance(version, int | str)):
            raise InvalidType("version", version, _VERSION)
        if isinstance(version, int) and version < 0:
            raise InvalidOption("version", version, _VERSION)
        if sub_dir is not None and not isinstance(sub_dir, str | os.PathLike):
            raise InvalidType("sub_dir", sub_dir, "a path below the run's folder, or None")
        self.save_dir = os.path.expandvars(os.path.expanduser(os.fspath(save_dir)))
        self.name = name or ""
        self.sub_dir = None if sub_dir is None else os.path.expandvars(os.path.expanduser(os.fspath(sub_dir)))
        self.claimed = False
        self._base = None if self.remote else _working_directory()  # where a relative path begins, wherever the process goes
        self._root: str | None = None  # where a subclass of the logger says that they are elsewhere
        self._path: str | None = None
        self._version = version
        self.given_as = "save_dir"  # by which argument, to a logger or to the Trainer that makes its default one
        self._settled = version is not None
        self._told = False  # settled because somebody asked for the next free one, which another run may take before this one
        self._writes = writes

    @property
    def remote(self) -> bool:
        """Whether the folder is an URL and not a local path."""
        return "://" in self.save_dir

    @property
    def is_settled(self) -> bool:
        """Whether the version is chosen."""
        return self._settled

    @property
    def root(self) -> str:
        """The folder that holds all versions."""
        if self._root is not None:
            return self._fixed(self._root)
        return self._fixed(os.path.join(self.save_dir, self.name) if self.name else self.save_dir)

    @property
    def version(self) -> int | str:
        """The run's version; the next free number where none was asked for."""
        if self._version is None:
            self._version = self._next()
        return self._version

    def fix(self) -> int | str:
        """The run's version, which stays from now on: somebody was told."""
        if not self._settled:
            self._version = self._next() if not self.claimed else self.version
            self._settled, self._told = True, not self.claimed
        return self.version

    @property
    def path(self) -> str:
        """The folder of the run."""
        return self.of(self.version) if self._path is None else self._fixed(self._path)

    @property
    def without_sub_dir(self) -> str:
        """The folder of the run, of which ``path`` is a part."""
        return self._of(self.version)

    def _fixed(self, folder: str) -> str:
        """``folder`` as it was given, or as it stays right where the process has left the directory in which that was."""
        if self._base is None or os.path.isabs(folder) or _working_directory() == self._base:
            return folder
        return os.path.join(self._base, folder)

    def follow(self, what: str, said: Any) -> None:
        """A subclass of the logger says another ``name``, ``version``, ``save_dir``, ``root_dir`` or ``log_dir``."""
        if what == "name":
            self.name = said or ""
        elif said is None:
            return
        elif what == "version":
            self._version, self._settled = said, True
        elif what == "save_dir":
            self.save_dir = os.fspath(said)
        elif what == "root_dir":
            self._root = os.fspath(said)
        else:
            self._path, self._settled = os.fspath(said), True

    @property
    def absolute(self) -> str:
        """The same, wherever the process stands."""
        return self.path if self.remote else os.path.abspath(self.path)

    def claim(self) -> None:
        """Create the folder, on the first process. Two runs that start at once never get the same free number.

        Raises :class:`InvalidOption` where the folder cannot be written.
        """
        if self.claimed:
            return
        self.claimed = True
        if rank_zero_only.rank or self.remote:
            _ = self.version
            self._told = False
            return
        try:
            told = (
                self.path if self._told and os.path.isdir(self.path) and any(map(self._writes, os.listdir(self.path))) else None
            )
            if told is not None:  # whoever took it has ended
                self._settled = False
            if not self._settled:
                os.makedirs(self.root, exist_ok=True)
                self._take_number()
            os.makedirs(self.path, exist_ok=True)
        except (OSError, ValueError) as error:  # a path with a character that none may have
            self.claimed = False
            raise self._refusal(getattr(error, "strerror", None) or str(error)) from error
        if not os.access(self.path, os.W_OK | os.X_OK):
            self.claimed = False
            raise self._refusal("permission denied")
        self._told = False
        clean_leftovers(self.path)
        if told is not None:
            self._warn_of_move(told)

    def give_way(self, folder: str) -> bool:
        """Another run holds ``folder``: whether this one can have another, because no version was asked for."""
        if not self._told or self.claimed or folder != self.absolute:
            return False
        self._version = self._next()
        self._warn_of_move(folder)
        return True

    def _warn_of_move(self, told: str) -> None:
        if not rank_zero_only.rank:
            warn_user(
                f"{told} was free when it was asked for. Another run has taken it: this one writes to {self.path}.", LeydenWarning
            )

    def go_on(self, position: Mapping[str, Any]) -> None:
        """Be the folder that ``position`` was taken in, if it is still there and no version was asked for."""
        if self._settled or self.claimed or "version" not in position:
            return
        if os.path.isdir(self.of(position["version"])) and self.of(position["version"]) in self.earlier(position):
            self._version = position["version"]
            self._settled = True

    def set_aside(self, belongs: Callable[[str], bool]) -> None:
        """Rename the files in the folder that ``belongs`` picks by name, where a version was asked for and it is there.

        ``metrics.csv`` becomes ``metrics.csv.abandoned``. In event files ``tfevents`` becomes ``abandoned``, because TensorBoard
        reads whatever has that in its name.
        """
        if not self._settled or self._told or self.claimed or self.remote or rank_zero_only.rank or not os.path.isdir(self.path):
            return
        for name in sorted(filter(belongs, os.listdir(self.path))):
            new = name.replace("tfevents", "abandoned") if "tfevents" in name else f"{name}.abandoned"
            target, number = os.path.join(self.path, new), 0
            while os.path.lexists(target):
                number += 1
                target = os.path.join(self.path, f"{new}-{number}")
            os.replace(os.path.join(self.path, name), target)

    def agree(self, agree: Callable[[Any], Any] | None) -> None:
        """Choose the version together: all processes take the first one's."""
        if rank_zero_only.rank == 0:
            self.claim()
        if agree is not None:
            self._version = agree(self._version)
        self.claim()

    def of(self, version: int | str) -> str:
        """The folder of another version."""
        return self._of(version) if self.sub_dir is None else os.path.join(self._of(version), self.sub_dir)

    def _of(self, version: int | str) -> str:
        return os.path.join(self.root, version if isinstance(version, str) else f"version_{version}")

    def earlier(self, position: Mapping[str, Any]) -> list[str]:
        """Where the run that wrote ``position`` may stand: beside this one, or where it stood then."""
        return list(dict.fromkeys([self.of(position["version"]), position["folder"]]))

    def _take_number(self) -> None:
        while True:
            folder = os.path.join(self.root, f"version_{self.version}")
            try:
                os.mkdir(folder)
            except FileExistsError:
                self._version = self._next()
            else:
                self._settled = True
                return

    def _next(self) -> int:
        try:
            if self.remote:
                files, root = reach(self.root)
                found = [os.path.basename(entry.rstrip("/")) for entry in files.ls(root, detail=False)]
            else:
                found = os.listdir(self.root)
        except InvalidOption:  # an URL of no known kind
            raise
        except (OSError, ValueError):  # what cannot be looked into cannot be made either, which says why
            return 0
        taken = [int(match[1]) for match in (re.fullmatch(r"version_(\d+)", entry) for entry in found) if match]
        return max(taken, default=-1) + 1

    def _refusal(self, why: str) -> InvalidOption:
        return InvalidOption(
            self.given_as,
            self.save_dir,
            "a folder that can be written",
            f"{self.path}: {why}. Give another {self.given_as}, or logger=False.",
        )


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed


class InFolder:
    """The part that loggers share which write into a :class:`RunFolder`."""

    _chosen: RunFolder  # what the constructor was given

    @property
    def _folder(self) -> RunFolder:
        return self._followed("save_dir", "name", "root_dir", "version", "log_dir")

    def _followed(self, *names: str) -> RunFolder:
        """The folder, with what a subclass overrides: it owns its name, its version and its place."""
        folder = self._chosen
        for name in names:
            if getattr(type(self), name) is not getattr(InFolder, name):
                folder.follow(name, getattr(self, name))
        return folder

    @property
    def name(self) -> str:
        return self._chosen.name

    @property
    def version(self) -> int | str:
        """The run's version. Once it was read, here or in :attr:`log_dir`, it stays."""
        return self._followed("save_dir", "name", "root_dir").fix()

    @property
    def save_dir(self) -> str:
        return self._chosen.save_dir

    @property
    def root_dir(self) -> str:
        return self._followed("save_dir", "name").root

    @property
    def log_dir(self) -> str:
        folder = self._followed("save_dir", "name", "root_dir", "version")
        folder.fix()
        return folder.path

    @property
    def likely_dir(self) -> str:
        """:attr:`log_dir` as things stand; reading it fixes nothing."""
        return self._folder.path

    @property
    def leyden_run_dir(self) -> str:
        """The folder of the run, in which others than the logger write: without ``sub_dir``."""
        here = self.log_dir  # reading it settles the version
        return here if self._chosen.sub_dir is None else self._folder.without_sub_dir

    @property
    def certain_dir(self) -> str | None:
        """:attr:`log_dir` where no other run can get the same; ``None`` as long as its number is not chosen, and for an URL."""
        folder = self._folder
        return folder.path if folder.is_settled and not folder.remote else None

    def leyden_go_on(self, position: dict[str, Any]) -> None:
        self._folder.go_on(position)

    def leyden_give_way(self, folder: str) -> bool:
        return self._folder.give_way(folder)
