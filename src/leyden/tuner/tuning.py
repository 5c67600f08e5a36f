"""Finders of the learning rate and the batch size: not offered yet."""

from __future__ import annotations

from typing import Any

from leyden.errors import absent

__all__: list[str] = []

_LATER = {"Tuner": "Not yet, that is: choose the learning rate and the batch size by hand."}


def __getattr__(name: str) -> Any:
    raise absent(__name__, name, _LATER, __all__)
