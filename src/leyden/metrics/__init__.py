"""Logged values, and what 1.0 to 1.4 had here: torchmetrics today, which is asked for it."""

import importlib
from typing import Any

from leyden.errors import MissingPackage


def torchmetrics(room: str, name: str) -> Any:
    """``name`` of ``room`` of torchmetrics. Raises ``AttributeError`` where it has none, and :class:`MissingPackage`."""
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        found = importlib.import_module(room)
    except ImportError as error:
        raise MissingPackage("torchmetrics", f"leyden.metrics.{name}", "metrics") from error
    return getattr(found, name)


def __getattr__(name: str) -> Any:
    if not name[:1].isupper():  # files of ours are asked for by name too, before they are imported
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return torchmetrics("torchmetrics", name)
