"""Profiler: measures named actions of a run, and reports."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from leyden.distributed.rank_zero import rank_zero_print
from leyden.spelling import exact_arguments

T = TypeVar("T")


@exact_arguments
class Profiler(ABC):
    """Subclass it and pass an instance as ``Trainer(profiler=...)`` to measure in a way of your own.

    Actions have names such as ``"[LightningModule]Net.training_step"``, ``"backward"`` or ``"optimizer_step"``. The
    report goes to ``{dirpath}/{stage}-{filename}.txt``, or to the screen where no ``filename`` was given; without
    ``dirpath`` the run's own folder is used, and :attr:`dirpath` says which that is.
    """

    leyden_active: bool = True
    """Whether it measures anything. Where it does not, a run calls nothing of it."""

    def __init__(self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None) -> None:
        self.dirpath = dirpath
        self.filename = filename
        self._stage: str | None = None
        self._local_rank: int | None = None
        self._log_dir: str | os.PathLike[str] | None = None

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

    def leyden_along(self, action_name: str, iterator: Iterator[T]) -> Iterator[T]:
        """``iterator``, with each fetch measured; the iterator itself where nothing is measured."""
        return self._fetches(action_name, iterator) if self.leyden_active else iterator

    def _fetches(self, action_name: str, iterator: Iterator[T]) -> Iterator[T]:
        while True:
            with self.profile(action_name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def summary(self) -> str:
        """The report; empty where there is nothing to say."""
        return ""

    def describe(self) -> None:
        """Write :meth:`summary` to the file, or to the screen."""
        report = self.summary()
        if not report:
            return
        if self.filename is None:
            rank_zero_print(report)
            return
        path = self._path(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(report, encoding="utf-8")

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | os.PathLike[str] | None = None) -> None:
        """A verb starts: ``stage`` is fit, validate, test or predict."""
        self._stage = stage
        self._local_rank = local_rank
        if self.dirpath is None or self.dirpath == self._log_dir:
            self.dirpath = log_dir
        self._log_dir = log_dir

    def teardown(self, stage: str | None) -> None:  # noqa: B027  # most profilers hold nothing open
        """A verb ends, after :meth:`describe`, also where it failed."""

    def _path(self, extension: str, action_name: str | None = None) -> Path:
        """Where a file of this stage, process and (if given) action goes."""
        parts = [self._stage, self.filename, str(self._local_rank) if self._local_rank else None]
        if action_name is not None:
            parts.append(re.sub(r"[^\w.\-]+", "_", action_name).strip("_"))
        name = "-".join(part for part in parts if part)
        return Path(self.dirpath or self._log_dir or ".") / f"{name}{extension}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


@exact_arguments
class PassThroughProfiler(Profiler):
    """Measures nothing."""

    leyden_active = False

    def __init__(self, dirpath: Any = None, filename: Any = None) -> None:
        super().__init__(None, None)

    def start(self, action_name: str) -> None:
        pass

    def stop(self, action_name: str) -> None:
        pass
