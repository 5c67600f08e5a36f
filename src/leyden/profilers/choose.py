"""From ``Trainer(profiler=...)`` to a profiler."""

from __future__ import annotations

from typing import Any

from leyden.errors import InvalidOption, InvalidType, Unsupported, did_you_mean
from leyden.profilers.advanced import AdvancedProfiler
from leyden.profilers.base import PassThroughProfiler, Profiler
from leyden.profilers.pytorch import PyTorchProfiler
from leyden.profilers.simple import SimpleProfiler

_KINDS: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def choose_profiler(profiler: str | Profiler | None) -> Profiler:
    """The profiler asked for; with ``None`` one that measures nothing (its ``leyden_active`` is False).

    Raises :class:`InvalidOption` for an unknown name and :class:`Unsupported` for ``"xla"``.
    """
    expected = "one of " + ", ".join(repr(name) for name in _KINDS) + ", a Profiler, or None"
    if profiler is None:
        return PassThroughProfiler()
    if isinstance(profiler, Profiler):
        return profiler
    if not isinstance(profiler, str):
        raise InvalidType("profiler", profiler, expected, _as_object(profiler))
    name = profiler.lower()
    if name == "xla":
        raise Unsupported("profiler='xla' is not offered, since XLA devices are not. Use profiler='pytorch'.")
    if name not in _KINDS:
        raise InvalidOption("profiler", profiler, expected, did_you_mean(name, _KINDS).strip())
    return _KINDS[name]()


def _as_object(given: Any) -> str:
    return f"Pass {given.__name__}()." if isinstance(given, type) and issubclass(given, Profiler) else ""
