"""Which checkpoints of a fit are worth keeping: records of paths and scores, without a disk or a run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any, Generic, Protocol, TypeVar, final, overload

import torch
from torch import Tensor

from leyden.checked import check_count
from leyden.errors import InvalidOption

T = TypeVar("T")


@final
class Retention:
    """What a fit has written and wants to keep: the ``k`` best, the last, and what is left to be removed.

    Whoever writes asks :meth:`wants`, chooses a name (one of :meth:`replaced` may be taken again), calls :meth:`offer`, writes,
    and removes what :meth:`unwanted` lists. Where writing fails, ``load_state_dict`` of the state before takes it all back.

    Args:
        k: How many to keep; ``-1`` for all, ``0`` for none.
        mode: ``"min"``: lower scores are better; ``"max"``: higher ones. NaN is worse than any number.

    Attributes:
        scores: The paths that are kept by their score, in the order in which they came.
        best, best_score: The best of them, the older of two that are equal. Without scores: the newest, and ``None``.
        kth, kth_score: The worst of them, the younger of two that are equal, once there are ``k``: the next to go.
        current: The score that came last among those that were kept.
        last: The path that holds the newest state.
        outdated: Paths that were written here, are not wanted any more, and perhaps are still there.
        interim: A path that the next save makes superfluous.
        written: Paths that were written since :meth:`forget`; not part of the state.

    Raises:
        InvalidOption: ``k`` or ``mode`` is none of these.
    """

    def __init__(self, k: int, mode: str = "min") -> None:
        self.k = check_count("save_top_k", k, -1, "a number of files >= 0, or -1 for all")
        if mode not in ("min", "max"):
            raise InvalidOption("mode", mode, '"min" (smaller is better) or "max"')
        self.mode = mode
        self.forget()

    def forget(self) -> None:
        """Begin the records of a new fit."""
        self.scores: dict[str, Tensor] = {}
        self.best = ""
        self.best_score: Tensor | None = None
        self.kth = ""
        self.kth_score = self.worst
        self.current: Tensor | None = None
        self.last = ""
        self.outdated: list[str] = []
        self.interim = ""
        self.written: set[str] = set()

    @property
    def worst(self) -> Tensor:
        """The score that none is worse than."""
        return torch.tensor(math.inf if self.mode == "min" else -math.inf)

    # -- the best
    def judge(self, value: Tensor) -> Tensor:
        """``value`` as a score: on the CPU (this waits for the device), and NaN as the worst."""
        score = value.detach().cpu().squeeze()
        return self.worst if math.isnan(float(score)) else score

    def wants(self, score: Tensor | None = None) -> bool:
        """Whether :meth:`offer` would keep a path of this score."""
        ranked = self._ranked()
        if score is None or self.k <= 0 or len(ranked) < self.k:
            return self.k != 0
        return self._cost(score) < self._cost(self.scores[ranked[-1]])

    def admits(self, score: Tensor | None) -> bool:
        """As :meth:`wants`, of a value that may be missing, or NaN: where files are kept by their score, nothing is none."""
        if score is None:
            return False
        return self.wants(self.judge(score))

    def replaced(self, score: Tensor | None = None) -> list[str]:
        """The path that goes when one of this score comes, if any: its name is free to be used again."""
        if score is None:
            return [self.best] if self.k == 1 and self.best else []
        ranked = self._ranked()
        return ranked[-1:] if len(ranked) == self.k else []

    def offer(self, path: str, score: Tensor | None = None, *, keeps_last: bool = True) -> None:
        """Take in ``path``; without a score it is the best because it is the newest. One that is there has its new score.

        Not ``keeps_last``: a file of the last is there only of a run that ended before anything was taken in, and goes.
        """
        if self.last and not keeps_last:
            self.outdated.append(self.last)
            self.last = ""
        if score is None:
            self.outdated += [old for old in self.replaced() if old != path]
            self.best = path
            return
        self.scores.pop(path, None)
        self.scores[path] = self.current = score
        self.trim()

    def trim(self) -> None:
        """Let go of what is not among the ``k`` best, and say which of the others are the best and the worst."""
        ranked = self._ranked()
        kept = set(ranked)
        self.outdated += [path for path in self.scores if path not in kept]
        self.scores = {path: score for path, score in self.scores.items() if path in kept}
        if ranked:
            self.best, self.best_score = ranked[0], self.scores[ranked[0]]
            if len(ranked) == self.k or self.k < 0:
                self.kth, self.kth_score = ranked[-1], self.scores[ranked[-1]]

    def start_ranking(self) -> None:
        """From now on there are scores: the newest so far has none, and goes."""
        if self.best:
            self.outdated.append(self.best)
        self.best = ""

    # -- the last, and what goes
    def renew_last(self, path: str) -> None:
        """The newest state goes to ``path``; the file that held it under another name is outdated."""
        if self.last and self.last != path:
            self.outdated.append(self.last)
        self.last = path

    def claim(self, paths: Iterable[str | None]) -> None:
        """These are about to be written anew, so that they are not outdated any more."""
        paths = set(paths)
        self.outdated = [old for old in self.outdated if old not in paths]

    def holds(self, path: str) -> bool:
        """Whether ``path`` is a file of this fit."""
        return path in self.written or path in self.scores

    def unwanted(self, folder: str | None, spare: str | None = None) -> list[str]:
        """What is to be removed, each once: never ``spare``, nor a file outside of ``folder``, which another run may need."""
        wanted = {*self.scores, self.best, self.last}
        return [
            path
            for path in dict.fromkeys(self.outdated)
            if path not in wanted and folder is not None and within(path, folder) and not _is_same(path, spare)
        ]

    def removed(self, spare: str | None = None) -> None:
        """All that was :meth:`unwanted` is gone; ``spare`` goes another time."""
        self.outdated = [path for path in self.outdated if _is_same(path, spare)]

    # -- kept
    def state_dict(self) -> dict[str, Any]:
        """The records, with the keys of Lightning's ModelCheckpoint and two of ours."""
        return {
            "best_model_score": self.best_score,
            "best_model_path": self.best,
            "current_score": self.current,
            "best_k_models": dict(self.scores),
            "kth_best_model_path": self.kth,
            "kth_value": self.kth_score,
            "last_model_path": self.last,
            "outdated": list(self.outdated),
            "interim": self.interim,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave, Lightning's too. ``k`` and ``mode`` stay; :meth:`trim` applies a new ``k``."""
        self.best_score = state["best_model_score"]
        self.best = state["best_model_path"]
        self.current = state.get("current_score")
        self.scores = dict(state.get("best_k_models", {}))
        self.kth = state.get("kth_best_model_path", "")
        self.kth_score = state.get("kth_value", self.worst)
        self.last = state.get("last_model_path", "")
        self.outdated = list(state.get("outdated", ()))
        self.interim = state.get("interim", "")

    def as_yaml(self) -> str:
        """The paths that are kept by their score, and the scores, as a mapping."""
        # a string of JSON is one of YAML
        lines = [f"{json.dumps(path, ensure_ascii=False)}: {float(score)!r}\n" for path, score in self.scores.items()]
        return "".join(lines) or "{}\n"

    def _ranked(self) -> list[str]:
        """The paths that are among the best, the best first. Sorting keeps the older of two that are equal in front."""
        ranked = sorted(self.scores, key=lambda path: self._cost(self.scores[path]))
        return ranked if self.k < 0 else ranked[: self.k]

    def _cost(self, score: Tensor) -> tuple[bool, float]:
        cost = float(score)
        return (True, 0.0) if math.isnan(cost) else (False, cost if self.mode == "min" else -cost)


def within(path: str, folder: str) -> bool:
    """Whether ``path`` lies in ``folder`` or below it. Both are absolute, or URLs."""
    return path.startswith(os.path.join(folder, ""))


def moved(state: Mapping[str, Any], before: str, now: str) -> dict[str, Any]:
    """``state`` of a :class:`Retention` whose folder ``before`` is called ``now`` today."""

    def new(path: str) -> str:
        return os.path.join(now, os.path.relpath(path, before)) if path else path

    return {
        **state,
        **{name: new(state.get(name, "")) for name in ("best_model_path", "kth_best_model_path", "last_model_path")},
        "best_k_models": {new(path): score for path, score in state.get("best_k_models", {}).items()},
        "outdated": [new(path) for path in state.get("outdated", ())],
    }


class HasRetention(Protocol):
    """Whose attributes :class:`Recorded` makes."""

    retention: Retention


@final
class Recorded(Generic[T]):
    """An attribute of ``self.retention`` that is read and set as an attribute of one's own."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, owner: None, kind: type) -> Recorded[T]: ...

    @overload
    def __get__(self, owner: HasRetention, kind: type) -> T: ...

    def __get__(self, owner: HasRetention | None, kind: type) -> Recorded[T] | T:
        return self if owner is None else getattr(owner.retention, self._name)

    def __set__(self, owner: HasRetention, value: T) -> None:
        setattr(owner.retention, self._name, value)


def _is_same(path: str, spare: str | None) -> bool:
    """Whether both name one file, be it by way of a link to its folder."""
    if spare is None or path == spare:
        return path == spare
    (folder, name), (other, named) = os.path.split(path), os.path.split(spare)
    return name == named and os.path.realpath(folder) == os.path.realpath(other)
