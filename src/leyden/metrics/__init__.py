"""Logged values, and what 0.9 to 1.4 had here: torchmetrics today, which is asked for it."""

import importlib
from typing import Any

from leyden.errors import MissingPackage
from leyden.former_addresses import stand_in_addresses


def as_it_was(how: str, name: str) -> Any:
    """What ``name`` was, by a function of ``former.py``. Raises ``AttributeError`` and :class:`MissingPackage`."""
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        importlib.import_module("torchmetrics")
    except ImportError as error:
        raise MissingPackage("torchmetrics", f"leyden.metrics.{name}", "metrics") from error
    return getattr(importlib.import_module("leyden.metrics.former"), how)(name)


def __getattr__(name: str) -> Any:
    if name == "functional":
        return importlib.import_module("leyden.metrics.functional")
    if not name[:1].isupper():  # files of ours are asked for by name too, before they are imported
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return as_it_was("former_class", name)


stand_in_addresses(__name__)
