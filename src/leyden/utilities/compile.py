"""Compiled modules: there is nothing to convert."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent

__all__: list[str] = []

_LATER = {
    "from_compiled": "fit and the other verbs take a module compiled by torch.compile as it is.",
    "to_uncompiled": "What torch.compile(module) wraps is its attribute _orig_mod.",
}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
