"""Read many logged values from their devices at once."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

import torch
from torch import Tensor

from leyden.errors import InvalidType

Number = float | int | bool


def read(values: list[Any]) -> list[Any]:
    """``values`` with every tensor replaced by its Python number: one transfer a device and dtype, not one a value."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, value in enumerate(values):
        if isinstance(value, Tensor):
            groups.setdefault((value.device, value.dtype), []).append(index)
    if not groups:
        return values
    numbers = list(values)
    for indices in groups.values():
        together = torch.stack([values[index].detach().reshape(()) for index in indices])
        for index, number in zip(indices, together.tolist(), strict=True):
            numbers[index] = number
    return numbers


def check_scalar(name: str, value: Any) -> None:
    """Raise :class:`InvalidType` for a value that holds more, or less, than one number."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise InvalidType(
            f"metrics[{name!r}]", f"tensor of shape {tuple(value.shape)}", "one number", "Reduce it first, such as by .mean()."
        )


def as_dict(params: Any) -> dict[str, Any]:
    """Hyper-parameters in whatever container, as a dict of their own."""
    if params is None:
        return {}
    if isinstance(params, Mapping):
        return dict(params)
    if isinstance(params, Namespace):
        return dict(vars(params))
    if is_dataclass(params) and not isinstance(params, type):
        return asdict(params)
    raise InvalidType("params", params, "a dict, a Namespace or a dataclass")


def flat(params: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested hyper-parameters as one level, the names joined by ``/``."""
    level: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, Namespace):
            value = vars(value)
        elif is_dataclass(value) and not isinstance(value, type):
            value = asdict(value)
        if isinstance(value, Mapping) and value:
            level.update(flat(value, f"{prefix}{key}/"))
        else:
            level[f"{prefix}{key}"] = value
    return level


def to_yaml(params: Mapping[str, Any]) -> str:
    """Hyper-parameters as YAML that any loader reads without running code: other objects stand as their text."""
    return "\n".join(_lines(params) if params else ["{}"]) + "\n"


def _lines(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _entry(f"{_scalar(key)}:", item)
    else:
        for item in value:
            yield from _entry("-", item)


def _entry(head: str, value: Any) -> Iterable[str]:
    if isinstance(value, Namespace):
        value = vars(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, Mapping | list | tuple):
        if not value:
            yield f"{head} {'{}' if isinstance(value, Mapping) else '[]'}"
            return
        yield head
        for line in _lines(value):
            yield f"  {line}"
        return
    yield f"{head} {_scalar(value)}"


_RESERVED = {"", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"}


def _scalar(value: Any) -> str:
    import json
    import re
    from enum import Enum

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
