"""Every public class, by reflection over the rooms: what a promise that holds for all of them is tested on."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator

ROOMS = (
    "leyden",
    "leyden.accelerators",
    "leyden.callbacks",
    "leyden.cli",
    "leyden.loggers",
    "leyden.plugins",
    "leyden.profilers",
    "leyden.serve",
    "leyden.strategies",
    "leyden.tuner",
    "leyden.utilities",
    "leyden.utilities.model_summary",
)


def public_classes() -> Iterator[type]:
    """The classes of ours that the rooms offer, each once; errors and enums aside, whose constructors nobody calls."""
    found: dict[type, None] = {}
    for room in map(importlib.import_module, ROOMS):
        for name in room.__all__:
            value = getattr(room, name)
            if inspect.isclass(value) and value.__module__.startswith("leyden.") and not issubclass(value, Exception | str):
                found[value] = None
    yield from found


def constructor_arguments(cls: type) -> list[str]:
    """What the constructor of ``cls`` takes by name."""
    if not inspect.isfunction(cls.__init__):  # type: ignore[misc]  # that of this class
        return []
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, each in inspect.signature(cls).parameters.items() if each.kind in named]


def concrete(cls: type) -> type:
    """``cls``, with something in place of its abstract methods: a class that can be made."""
    missing = getattr(cls, "__abstractmethods__", ())
    return type(cls.__name__, (cls,), dict.fromkeys(missing)) if missing else cls
