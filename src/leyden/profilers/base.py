"""Profiler: measures named actions of a run, and reports."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from leyden.checkpoint.files import reach
from leyden.distributed.rank_zero import rank_zero_print
from leyden.errors import ConflictingOptions, InvalidOption, LeydenWarning, warn_user
from leyden.spelling import exact_arguments

T = TypeVar("T")
Batch = tuple[Any, int, bool]
"""A batch, its number, and whether it is the last."""


@exact_arguments
class Profiler(ABC):
    """Subclass it and pass an instance as ``Trainer(profiler=...)`` to measure in a way of your own.

    Actions have names such as ``"run_training_batch"``, ``"[Strategy]SingleDeviceStrategy.training_step"`` or
    ``"[Callback]Mine.on_train_batch_end"``; docs/profilers.md lists them. The report goes to the end of
    ``{dirpath}/{stage}-{filename}.txt`` (with several processes ``{stage}-{filename}-{local_rank}.txt``), or to the screen where
    no ``filename`` was given; without ``dirpath`` the run's own folder is used, and :attr:`dirpath` says which that is.
    """

    leyden_active: bool = True
    """Whether it measures anything. Where it does not, a run calls nothing of it."""

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename
        self._stage: str | None = None
        self._local_rank: int | None = None
        self.leyden_log_dir: str | os.PathLike[str] | None = None

    @abstractmethod
    def start(self, action_name: str) -> None:
        """Begin to measure an action."""

    @abstractmethod
    def stop(self, action_name: str) -> None:
        """End the action that :meth:`start` began."""

    @contextmanager
    def profile(self, action_name: str) -> Iterator[str]:
        """Measure what runs within, as ``action_name``."""
        self.start(action_name)
        try:
            yield action_name
        finally:
            self.stop(action_name)

    def leyden_around(self, action_name: str, function: Callable[..., T]) -> Callable[..., T]:
        """``function``, measured at each call; the function itself where nothing is measured."""
        if not self.leyden_active:
            return function

        @wraps(function)
        def measured(*args: Any, **kwargs: Any) -> T:
            with self.profile(action_name):
                return function(*args, **kwargs)

        return measured

    def leyden_along(self, action_name: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        """``batches``, with each fetch measured; the iterator itself where nothing is measured."""
        return self.leyden_fetches(action_name, batches) if self.leyden_active else batches

    def leyden_fetches(self, action_name: str, batches: Iterator[Batch]) -> Iterator[Batch]:
        is_last = False
        while not is_last:
            with self.profile(action_name):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            is_last = batch[2]
            yield batch
        yield from batches  # nothing is left, and what ends with it is no fetch

    def leyden_attend(self, module: Any) -> None:  # noqa: B027  # most profilers need not know it
        """Get to know the module of the verb that :meth:`setup` has announced."""

    def summary(self) -> str:
        """The report; empty where there is nothing to say."""
        return ""

    def describe(self) -> None:
        """Write :meth:`summary` to the file, or to the screen."""
        report = self.summary()
        if not report:
            return
        if self.filename is None or (self.dirpath or self.leyden_log_dir) is None:
            rank_zero_print(report)
            return
        try:
            with self.leyden_open(self._prepare_filename(), "a") as file:
                file.write(report)
        except OSError as error:  # the disk is full at the end of a long run
            warn_user(f"The report of {type(self).__name__} could not be written ({error}). It follows here.", LeydenWarning)
            rank_zero_print(report)

    def leyden_open(self, name: str, mode: str) -> Any:
        """The file ``name`` in the profiler's folder, opened.

        Raises :class:`ConflictingOptions` where there is none, and :class:`InvalidOption` where nothing can be written there.
        """
        folder = self.dirpath or self.leyden_log_dir
        if folder is None:
            raise ConflictingOptions(f"{type(self).__name__} has no folder for {name!r}. Pass dirpath=...")
        files, place = self.leyden_folder()
        try:
            return files.open(f"{place}/{name}", mode, **({} if "b" in mode else {"encoding": "utf-8"}))
        except OSError as error:
            raise _unwritable(self, error) from error

    def leyden_folder(self) -> tuple[Any, str]:
        """The folder's file system, and what it is called there."""
        files, place = reach(os.fspath(self.dirpath or self.leyden_log_dir or "."))
        try:
            files.makedirs(place, exist_ok=True)
        except (OSError, ValueError) as error:  # a path with a character that none may have
            raise _unwritable(self, error) from error
        if files.protocol[0] == "file" and not os.access(place, os.W_OK):
            raise _unwritable(self, PermissionError("permission denied"))
        return files, place

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | os.PathLike[str] | None = None) -> None:
        """A verb starts: ``stage`` is fit, validate, test or predict. ``local_rank`` is None where this process is alone."""
        self._stage = stage
        self._local_rank = local_rank
        if self.dirpath is None or self.dirpath == self.leyden_log_dir:
            self.dirpath = log_dir
        self.leyden_log_dir = log_dir
        if self.dirpath is not log_dir and self.filename is not None:
            self.leyden_folder()  # now, not at the end of a long run

    def teardown(self, stage: str | None) -> None:  # noqa: B027  # most profilers hold nothing open
        """A verb ends, after :meth:`describe`, also where it failed."""

    @property
    def local_rank(self) -> int:
        """This process's number on its machine; 0 where it is alone."""
        return self._local_rank or 0

    def _prepare_filename(self, action_name: str | None = None, extension: str = ".txt") -> str:
        """What a file of this stage, process and (if given) action is called."""
        parts = (self._stage, self.filename, self._local_rank, action_name)
        name = "-".join(str(part) for part in parts if part not in (None, ""))
        return (re.sub(r'[\\/:*?"<>|\n\r\t_]+', "_", name).strip() or "profile") + extension

    def _stats_to_str(self, stats: Mapping[str, str]) -> str:
        """A report with what there is to say of each action."""
        rank = "" if self._local_rank is None else f" rank: {self._local_rank}"
        told = (f"Profile stats for: {action}{rank}\n{text}" for action, text in stats.items())
        return "\n".join([self.leyden_heading(), *told])

    def leyden_heading(self) -> str:
        return f"{self._stage.upper()} Profiler Report" if self._stage else "Profiler Report"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@exact_arguments
class PassThroughProfiler(Profiler):
    """Measures nothing."""

    leyden_active = False

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None) -> None:
        super().__init__(None, None)

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass


def _unwritable(profiler: Profiler, error: Exception) -> InvalidOption:
    return InvalidOption("dirpath", str(profiler.dirpath or profiler.leyden_log_dir), f"a folder to write to ({error})")
