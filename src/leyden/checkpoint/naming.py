"""What checkpoint files are called, and which are worth keeping: arithmetic on names and scores, without a disk or a run."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from leyden.errors import InvalidOption

FILE_EXTENSION = ".ckpt"
_FIELD = re.compile(r"\{([^{}:]*)(:[^{}]*)?\}")
_SEPARATORS = re.compile(r"[/\\]")
_LAST = re.compile(r"^last(-v\d+)?\.ckpt$")


def format_name(
    template: str | None,
    metrics: Mapping[str, Any],
    *,
    auto_insert_metric_name: bool = True,
    prefix: str = "",
    version: int | None = None,
    extension: str = FILE_EXTENSION,
) -> str:
    """The file name that ``template`` stands for, such as ``epoch=3-val_loss=0.12.ckpt``.

    ``{name}`` and ``{name:format}`` are replaced by the metric's value, with ``name=`` before it if
    ``auto_insert_metric_name``. A metric that is not there counts as 0. A ``/`` in a metric's name becomes ``_``, so that
    ``{val/loss}`` makes no folder; a ``/`` in the text of the template does make one, as it says.

    Args:
        template: ``None`` means ``{epoch}-{step}``.
        metrics: Values by name, numbers or 0-dim tensors; ``epoch`` and ``step`` among them.
        auto_insert_metric_name: Whether ``{epoch}`` becomes ``epoch=3``, or ``3``.
        prefix: Text before it, joined by ``-``.
        version: Adds ``-v1``, ``-v2`` ... before the extension where a name is taken.
        extension: What it ends in.

    Raises:
        InvalidOption: a format does not fit its value.
    """
    template = "{epoch}-{step}" if template is None else template

    def value(match: re.Match[str]) -> str:
        name, form = match.group(1), match.group(2) or ":"
        number = _number(metrics.get(name, 0))
        try:
            text = format(number, form[1:])
        except ValueError:
            try:  # `{step:d}` of a step that came as a float, `{epoch:.2f}` of an int
                text = format(int(number), form[1:])
            except (ValueError, OverflowError) as error:
                raise InvalidOption(
                    "filename", template, f"a format that fits {name}={number!r}, which {match.group(0)!r} does not"
                ) from error
        text = _SEPARATORS.sub("_", text)
        return f"{_SEPARATORS.sub('_', name)}={text}" if auto_insert_metric_name else text

    name = _FIELD.sub(value, template)
    if prefix:
        name = f"{prefix}-{name}"
    if version is not None:
        name = f"{name}-v{version}"
    return name + extension


def next_free(folder: str, name: str, taken: Iterable[str] = (), extension: str = FILE_EXTENSION) -> str:
    """The path of ``name`` in ``folder``, with ``-v1``, ``-v2`` ... where it exists or is in ``taken`` (paths)."""
    taken = {os.path.abspath(path) for path in taken}
    stem = name.removesuffix(extension)
    path, version = os.path.join(folder, name), 0
    while os.path.exists(path) or os.path.abspath(path) in taken:
        version += 1
        path = os.path.join(folder, f"{stem}-v{version}{extension}")
    return path


def newest_checkpoint(folder: str | os.PathLike[str], extension: str = FILE_EXTENSION) -> list[str]:
    """All checkpoints of ``folder`` in the order in which to try them for ``ckpt_path="last"``.

    Newest first by the time of writing; where that is the same (a hard link to another), ``last*.ckpt`` first, then by name.
    Empty where there is none, or no folder. Whether they are whole is seen when they are read.
    """
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(extension) and not entry.name.startswith("."):
                    try:
                        found.append((entry.stat().st_mtime_ns, bool(_LAST.match(entry.name)), entry.name, entry.path))
                    except FileNotFoundError:
                        continue  # gone since it was listed
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [path for *_, path in sorted(found, reverse=True)]


class KeepBest:
    """Which ``k`` of the paths offered have the best scores. Knows no disk: it only says what is outdated.

    Args:
        k: How many to keep; ``-1`` for all, ``0`` for none.
        mode: ``"min"``: lower scores are better; ``"max"``: higher ones.
    """

    def __init__(self, k: int, mode: str = "min") -> None:
        if k < -1:
            raise InvalidOption("save_top_k", k, "a number of checkpoints >= 0, or -1 for all")
        if mode not in ("min", "max"):
            raise InvalidOption("mode", mode, "'min' or 'max'")
        self.k = k
        self.mode = mode
        self._scores: dict[str, float] = {}  # in the order in which they came

    @property
    def scores(self) -> dict[str, float]:
        """The paths kept and their scores, the oldest first."""
        return dict(self._scores)

    @property
    def best(self) -> str | None:
        """The path with the best score; the older of two that are equal."""
        return min(self._scores, key=self._rank, default=None)

    @property
    def kth(self) -> str | None:
        """The path with the worst score kept: the next to go. The younger of two that are equal."""
        return max(reversed(self._scores), key=self._rank, default=None)

    def would_keep(self, score: float) -> bool:
        """Whether :meth:`offer` would keep a path of this score."""
        if self.k < 0 or (self.k > 0 and len(self._scores) < self.k):
            return True
        return self.k > 0 and self._cost(score) < self._cost(self._scores[self.kth or ""])

    def offer(self, path: str, score: float) -> list[str]:
        """Take ``path`` in if its score is among the ``k`` best, and return the paths that are outdated now.

        ``path`` itself is among them where it is not kept. NaN is worse than any number. A path that is offered again
        has its new score.
        """
        self._scores.pop(path, None)
        self._scores[path] = float(score)
        outdated = []
        while 0 <= self.k < len(self._scores):
            worst = max(reversed(self._scores), key=self._rank)
            del self._scores[worst]
            outdated.append(worst)
        return outdated

    def discard(self, path: str) -> None:
        """Forget a path: its file is gone."""
        self._scores.pop(path, None)

    def state_dict(self) -> dict[str, Any]:
        return {"k": self.k, "mode": self.mode, "scores": dict(self._scores)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the scores. ``k`` and ``mode`` stay what the constructor was told."""
        self._scores = {str(path): float(score) for path, score in state["scores"].items()}

    def _cost(self, score: float) -> tuple[bool, float]:
        if math.isnan(score):
            return True, 0.0
        return False, score if self.mode == "min" else -score

    def _rank(self, path: str) -> tuple[bool, float]:
        return self._cost(self._scores[path])


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
