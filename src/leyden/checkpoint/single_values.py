"""Values that hold no others, as plain ones and back: numbers and arrays of NumPy, enums, paths, times.

What each becomes is a dict whose key ``__leyden__`` names the kind: see :mod:`leyden.checkpoint.format`.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import math
import pathlib
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

MARK = "__leyden__"
_PURE_PATHS: tuple[type[pathlib.PurePath], ...] = (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PurePath)
_LARGEST_OF_NOTHING = 1 << 16  # elements of no size, which take some memory all the same
LARGEST_INT_BITS = 2039  # a pickled int of more bytes than 255 is not admitted
_FORMATS = {
    str(form): form for form in (torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format)
}


class Malformed(ValueError):
    """A value says of itself what cannot be true."""


def reference(kind: type) -> str:
    """By what :func:`resolve` finds ``kind`` again."""
    return f"{kind.__module__}:{kind.__qualname__}"


def resolve(reference: str) -> Any:
    """The class of that name if it is already there. Looks into dicts only: a lazy module would import on ``getattr``."""
    module_name, _, names = reference.partition(":")
    found: Any = sys.modules.get(module_name)
    for name in names.split("."):
        found = getattr(found, "__dict__", {}).get(name)
    return found if isinstance(found, type) else None


def _encode_array(value: np.ndarray[Any, Any]) -> Any:
    if type(value) is not np.ndarray or value.dtype.hasobject:
        return None
    raw = bytearray(np.ascontiguousarray(value).tobytes())
    data = torch.frombuffer(raw, dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    return {MARK: "array", "dtype": _encode_dtype(value.dtype), "shape": list(value.shape), "data": data}


def _encode_scalar(value: np.generic) -> Any:
    if value.dtype.hasobject:
        return None
    return {MARK: "scalar", "dtype": _encode_dtype(value.dtype), "data": value.tobytes()}


def _encode_dtype(dtype: np.dtype[Any]) -> Any:
    return dtype.str if dtype.names is None else [list(map(_plain_descr, field)) for field in dtype.descr]


def _plain_descr(part: Any) -> Any:
    return [list(map(_plain_descr, item)) for item in part] if isinstance(part, list) else part


def _encode_enum(value: enum.Enum) -> Any:
    plain = value.value if type(value.value) in (int, str, float, bool) else None
    return {MARK: "enum", "of": reference(type(value)), "name": value.name, "value": plain}


def _encode_path(value: pathlib.PurePath) -> Any:
    if isinstance(value, pathlib.Path):
        return {MARK: "path", "of": "Path", "value": str(value)}
    return {
        MARK: "path",
        "of": next(k.__name__ for k in type(value).__mro__ if k.__module__.startswith("pathlib")),
        "value": str(value),
    }


def _encode_datetime(value: datetime.datetime) -> Any:
    zone = _encode_zone(value.tzinfo)
    if type(value) is not datetime.datetime or zone is None:
        return None
    numbers = [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, value.fold]
    return {MARK: "datetime", "numbers": numbers, "zone": zone}


def _encode_date(value: datetime.date) -> Any:
    if type(value) is not datetime.date:
        return None
    return {MARK: "date", "numbers": [value.year, value.month, value.day]}


def _encode_time(value: datetime.time) -> Any:
    zone = _encode_zone(value.tzinfo)
    if type(value) is not datetime.time or zone is None:
        return None
    return {MARK: "time", "numbers": [value.hour, value.minute, value.second, value.microsecond, value.fold], "zone": zone}


def _encode_timedelta(value: datetime.timedelta) -> Any:
    if type(value) is not datetime.timedelta:
        return None
    return {MARK: "timedelta", "numbers": [value.days, value.seconds, value.microseconds]}


def _encode_zone(zone: datetime.tzinfo | None) -> list[Any] | None:
    if zone is None:
        return []
    if isinstance(zone, datetime.timezone):
        offset = zone.utcoffset(None)
        return [offset.days, offset.seconds, offset.microseconds, zone.tzname(None)]
    key = getattr(zone, "key", None)
    return [key] if isinstance(zone, zoneinfo.ZoneInfo) and key else None


def _encode_range(value: range) -> Any:
    return {MARK: "range", "numbers": [value.start, value.stop, value.step]}


def _as_text(kind: str, exact: type) -> Callable[[Any], Any]:
    return lambda value: {MARK: kind, "text": str(value)} if type(value) is exact else None


def _decode_enum(plain: dict[str, Any]) -> Any:
    kind, name, value = resolve(plain["of"]), plain["name"], plain["value"]
    if kind is None or not issubclass(kind, enum.Enum):
        return value if value is not None else name
    if name in kind.__members__:
        return kind.__members__[name]
    if issubclass(kind, enum.Flag) or value in kind._value2member_map_:
        return kind(value)
    return value if value is not None else name


def _decode_array(plain: dict[str, Any]) -> Any:
    dtype, data, shape = _decode_dtype(plain["dtype"]), plain["data"], plain["shape"]
    count = math.prod(shape) if all(type(length) is int and length >= 0 for length in shape) else -1
    if count < 0 or (count * dtype.itemsize != data.numel() if dtype.itemsize else count > _LARGEST_OF_NOTHING):
        raise Malformed(f"it has an array of the shape {tuple(shape)} and the type {dtype} whose data are {data.numel()} bytes")
    raw = bytearray(data.cpu().numpy().tobytes())
    return np.frombuffer(raw, dtype=dtype).reshape(shape) if raw and dtype.itemsize else np.zeros(shape, dtype)


def _decode_scalar(plain: dict[str, Any]) -> Any:
    dtype, data = _decode_dtype(plain["dtype"]), plain["data"]
    return np.frombuffer(data, dtype=dtype)[0] if dtype.itemsize else np.zeros((), dtype)[()]


def _decode_dtype(described: Any) -> np.dtype[Any]:
    return np.dtype(described if isinstance(described, str) else [_descr(field) for field in described])


def _descr(field: list[Any]) -> tuple[Any, ...]:
    return tuple(tuple(p) if isinstance(p, list) and (not p or isinstance(p[0], int)) else _nested(p) for p in field)


def _nested(part: Any) -> Any:
    return [_descr(item) for item in part] if isinstance(part, list) else part


def _decode_zone(zone: list[Any]) -> datetime.tzinfo | None:
    if not zone:
        return None
    if len(zone) == 1:
        return zoneinfo.ZoneInfo(zone[0])
    offset = datetime.timedelta(*zone[:3])
    if not offset and zone[3] == "UTC":
        return datetime.timezone.utc
    unnamed = datetime.timezone(offset)
    return unnamed if unnamed.tzname(None) == zone[3] else datetime.timezone(offset, zone[3])


def _decode_datetime(plain: dict[str, Any]) -> datetime.datetime:
    *numbers, fold = plain["numbers"]
    return datetime.datetime(*numbers).replace(fold=fold, tzinfo=_decode_zone(plain["zone"]))


def _decode_time(plain: dict[str, Any]) -> datetime.time:
    *numbers, fold = plain["numbers"]
    return datetime.time(*numbers).replace(fold=fold, tzinfo=_decode_zone(plain["zone"]))


SINGLE_ENCODERS: list[tuple[Any, Callable[[Any], Any]]] = [
    (enum.Enum, _encode_enum),
    (np.generic, _encode_scalar),
    (np.ndarray, _encode_array),
    (np.dtype, lambda value: None if value.hasobject else {MARK: "numpy.dtype", "dtype": _encode_dtype(value)}),
    (pathlib.PurePath, _encode_path),
    (datetime.datetime, _encode_datetime),
    (datetime.date, _encode_date),
    (datetime.time, _encode_time),
    (datetime.timedelta, _encode_timedelta),
    (datetime.timezone, lambda value: {MARK: "timezone", "zone": _encode_zone(value)}),
    (range, _encode_range),
    (decimal.Decimal, _as_text("decimal", decimal.Decimal)),
    (fractions.Fraction, _as_text("fraction", fractions.Fraction)),
    (uuid.UUID, _as_text("uuid", uuid.UUID)),
    (torch.memory_format, lambda value: {MARK: "memory_format", "text": str(value)}),
    (types.EllipsisType, lambda value: {MARK: "ellipsis"}),
    (bool, bool),
    (int, lambda value: {MARK: "int", "hex": hex(int(value))} if int(value).bit_length() > LARGEST_INT_BITS else int(value)),
    (float, float),
    (str, lambda value: str.__str__(value)),
    (bytes, bytes),
]
"""Asked in this order. An encoder may return None: not a value it can tell."""

SINGLE_DECODERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "array": _decode_array,
    "bytes": lambda plain: b"",
    "date": lambda plain: datetime.date(*plain["numbers"]),
    "datetime": _decode_datetime,
    "decimal": lambda plain: decimal.Decimal(plain["text"]),
    "ellipsis": lambda plain: ...,
    "enum": _decode_enum,
    "fraction": lambda plain: fractions.Fraction(*map(int, plain["text"].split("/"))),  # no exponent: it would be multiplied out
    "int": lambda plain: int(plain["hex"], 16),
    "memory_format": lambda plain: _FORMATS[plain["text"]],
    "numpy.dtype": lambda plain: _decode_dtype(plain["dtype"]),
    "path": lambda plain: next((kind for kind in _PURE_PATHS if kind.__name__ == plain["of"]), pathlib.Path)(plain["value"]),
    "range": lambda plain: range(*plain["numbers"]),
    "scalar": _decode_scalar,
    "time": _decode_time,
    "timedelta": lambda plain: datetime.timedelta(*plain["numbers"]),
    "timezone": lambda plain: _decode_zone(plain["zone"]),
    "uuid": lambda plain: uuid.UUID(plain["text"]),
}
