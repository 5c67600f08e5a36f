"""Hyper-parameters as YAML text, without a package that writes it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from torch import Tensor

from leyden.loggers.hyperparameters import items_of, opened


def to_yaml(params: Mapping[str, Any]) -> str:
    """Hyper-parameters as YAML that any loader reads without running code: other objects stand as their text."""
    return "\n".join(_lines(params) if params else ["{}"]) + "\n"


def _lines(value: Any, around: tuple[Any, ...] = ()) -> Iterable[str]:
    around = (*around, value)
    if isinstance(value, Mapping):
        for key, item in items_of(value):
            yield from _entry(f"{_scalar(key)}:", item, around)
    else:
        for item in value:
            yield from _entry("-", item, around)


def _entry(head: str, value: Any, around: tuple[Any, ...]) -> Iterable[str]:
    value = opened(value)
    if any(value is each for each in around):  # a tree whose children know their parent
        value = "..."
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, Mapping | list | tuple):
        if not value:
            yield f"{head} {'{}' if isinstance(value, Mapping) else '[]'}"
            return
        yield head
        for line in _lines(value, around):
            yield f"  {line}"
        return
    yield f"{head} {_scalar(value)}"


_RESERVED = {"", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def _scalar(value: Any) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    elif hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 and not isinstance(value, Tensor):
        value = value.item()  # a numpy scalar
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return repr(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            return ".nan" if math.isnan(value) else (".inf" if value > 0 else "-.inf")
        text = repr(float(value))
        return text if "." in text or "e" not in text else text.replace("e", ".0e")  # YAML 1.1 takes 1e-05 for a string
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*( [\w./-]+)*", text, re.ASCII) and text.lower() not in _RESERVED:
        return text
    return json.dumps(text, ensure_ascii=False)
