"""What loggers share whose rows go to a service: its package, which checkpoints it is to get, rows that wait."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from torch import Tensor

from leyden.checkpoint.folders import MANIFEST
from leyden.checkpoint.random_state import preserved_random_state
from leyden.errors import InvalidOption, InvalidType, MissingPackage
from leyden.loggers.hyperparameters import as_dict, called
from leyden.metrics.newest import read_numbers

LogModel = Literal["all"] | bool
"""Whether checkpoints go to the service: ``True`` at the end of training, ``"all"`` as they are written, ``False`` never."""
ROWS = 100
"""Rows that wait at most to be read from their device and written."""
SECONDS = 1.0
"""A row is written with those that wait when so many seconds have gone since the last were."""


def need(module: str, who: str, extra: str = "", package: str = "") -> None:
    """Raise :class:`MissingPackage` where ``module`` is not installed. It is not imported."""
    there = sys.modules.get(module, module) is not None
    try:
        there = there and importlib.util.find_spec(module) is not None
    except ValueError:
        there = True  # somebody put a module of their own in its place
    if not there:
        raise MissingPackage(package or module, who, extra)


@contextmanager
def apart() -> Iterator[None]:
    """For what a package does when it is imported and when a run begins there.

    Random numbers that it draws are drawn from nobody's, and what it warns of, its own dependencies, is not shown.
    """
    with preserved_random_state(devices=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_log_model(given: Any) -> LogModel:
    """``log_model`` of a logger, or a named error."""
    if isinstance(given, bool):
        return given
    if given == "all":
        return "all"
    kind = InvalidOption if isinstance(given, str) else InvalidType
    raise kind("log_model", given, 'True (at the end), "all" (as they are written) or False')


def check_writable(name: str, folder: str, instead: str) -> None:
    """Make ``folder``. Raises :class:`InvalidOption` where nothing can be written there."""
    try:
        os.makedirs(folder, exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"
    except (OSError, ValueError) as error:  # a path with a character that none may have
        why = getattr(error, "strerror", None) or str(error)
    if why:
        raise InvalidOption(name, folder, "a folder that can be written", f"{os.path.abspath(folder)}: {why}. {instead}")


def hyperparameters(params: dict[str, Any] | Namespace | None) -> dict[str, Any]:
    """Hyper-parameters by name, classes and functions among them as their names."""
    return {str(name): called(value) for name, value in as_dict(params).items()}


def prefixed(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """A copy of ``metrics`` with ``prefix`` before each name."""
    return {prefix + name: value for name, value in metrics.items()} if prefix else dict(metrics)


Row = tuple[dict[str, Any], int | None, float]
"""Values by name, the step, and when they were logged (seconds since 1970)."""


def is_plain(metrics: Mapping[str, Any]) -> bool:
    """Whether all values are single numbers."""
    return all(isinstance(each, int | float) or (isinstance(each, Tensor) and each.numel() == 1) for each in metrics.values())


def on_a_device(metrics: Mapping[str, Any]) -> bool:
    """Whether reading some value waits for a device."""
    return any(isinstance(value, Tensor) and value.device.type != "cpu" for value in metrics.values())


def read_rows(rows: list[Row]) -> list[Row]:
    """``rows`` with numbers in place of tensors that hold one, read in bulk."""
    ones = {
        (index, name): value
        for index, (metrics, _, _) in enumerate(rows)
        for name, value in metrics.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }
    if not ones:
        return rows
    numbers = read_numbers(ones)
    return [
        ({name: numbers.get((index, name), value) for name, value in metrics.items()}, step, at)
        for index, (metrics, step, at) in enumerate(rows)
    ]


class Waiting:
    """Rows that wait to be written: so many at most, and in a slow run none."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._taken = 0.0  # when they were last

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, metrics: dict[str, Any], step: int | None, at: float) -> bool:
        """Keep a row; whether it is time to write."""
        self._rows.append((metrics, step, at))
        return len(self._rows) >= ROWS or abs(at - self._taken) >= SECONDS

    def take(self) -> list[Row]:
        """All that wait, read from their devices. None waits any more."""
        rows, self._rows, self._taken = self._rows, [], now()
        return read_rows(rows)


class Found(NamedTuple):
    """A checkpoint, a file or a folder, that the service does not have yet."""

    path: str
    aliases: list[str]
    metadata: dict[str, Any]


class Written(NamedTuple):
    """A checkpoint that is there, when it was written (seconds since 1970), and the monitored value where there is one."""

    at: float
    path: str
    score: Any


def written_by(callback: Any) -> list[Written]:
    """The files and folders of a checkpoint callback, the oldest first."""
    scores: dict[str, Any] = {}
    for path, score in (("last_model_path", "current_score"), ("best_model_path", "best_model_score")):
        if hasattr(callback, path) and hasattr(callback, score):
            scores[getattr(callback, path)] = getattr(callback, score)
    scores.update(getattr(callback, "best_k_models", {}))
    last_part = {path: os.path.join(path, MANIFEST) if os.path.isdir(path) else path for path in scores if path}
    times = {path: os.stat(last).st_mtime for path, last in last_part.items() if os.path.isfile(last)}
    return [Written(times[path], path, scores[path]) for path in sorted(times, key=lambda path: (times[path], path))]


class SentCheckpoints:
    """Which files of checkpoint callbacks a service has got, and which it is to get."""

    def __init__(self, log_model: LogModel, settings: tuple[str, ...], called: str = "") -> None:
        self._log_model = log_model
        self._settings = settings  # of the callback, that go along
        self._called = called  # what they are called in the metadata; by default as the callback's class
        self._sent: dict[str, float] = {}
        self._callbacks: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_callbacks": []}  # they belong to a trainer

    def note(self, callback: Any) -> list[Found]:
        """``callback`` has written. What is to go now."""
        if not self._log_model:
            return []
        if not any(each is callback for each in self._callbacks):
            self._callbacks.append(callback)
        return self.found(callback) if self._log_model == "all" or getattr(callback, "save_top_k", None) == -1 else []

    def at_the_end(self) -> list[Found]:
        """What is to go when training has ended."""
        return [each for callback in self._callbacks for each in self.found(callback)]

    def found(self, callback: Any) -> list[Found]:
        """The files and folders of ``callback`` that are there and not sent, the oldest first."""
        fresh = [each for each in written_by(callback) if self._sent.get(each.path, 0.0) < each.at]
        settings = {name: getattr(callback, name) for name in self._settings if hasattr(callback, name)}
        found = []
        for at, path, score in fresh:
            self._sent[path] = at
            metadata = {
                "score": score.item() if isinstance(score, Tensor) else score,
                "original_filename": os.path.basename(path),
                self._called or type(callback).__name__: settings,
            }
            best = path == getattr(callback, "best_model_path", None)
            found.append(Found(path, ["latest", "best"] if best else ["latest"], metadata))
        return found


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def plain_name(name: str) -> str:
    """``name`` without the characters that MLflow refuses."""
    return re.sub(r"[^a-zA-Z0-9_/. -]+", "", name)
