"""What may stand in a checkpoint: values of many types as plain ones, so that the file loads without running code.

``torch.load(weights_only=True)`` admits tensors, ``None``, bools, numbers, strings, bytes, lists, tuples, dicts,
``OrderedDict``, ``Counter``, sets, and torch's dtypes, devices, sizes and layouts. These stay as they are. Anything else
becomes a dict with the key ``__leyden__``, which names the kind, and comes back as what it was when the file is read.
Classes and functions of torch are written by their names: see :mod:`leyden.checkpoint.named`.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
import types
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from leyden.checkpoint.named import named, reference_of
from leyden.checkpoint.single_values import (
    LARGEST_INT_BITS,
    MARK,
    SINGLE_DECODERS,
    SINGLE_ENCODERS,
    Malformed,
    reference,
    resolve,
)
from leyden.errors import CheckpointDamaged
from leyden.hparams_attributes import AttributeDict
from leyden.tree import ends

_SAME = frozenset({bool, float, str, bytes, bytearray, complex, type(None), torch.dtype, torch.device, torch.Size, torch.layout})
TRUSTED = ", or load it with weights_only=False, which runs code of the file: only where you trust it"
_Decode = Callable[[Any], Any]
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (list, dict, set, tuple, int, float, str, bool)}


@dataclasses.dataclass(frozen=True)
class Unwritable:
    """Stands where a value could not be written without pickle: its name, and the name of its type."""

    name: str
    type: str
    kept: Mapping[str, Any] = dataclasses.field(default_factory=dict, kw_only=True, repr=False, compare=False)
    """What else the file holds of it: a ``pickle`` and its ``tensors``, and the ``reason`` why these could not be used."""

    @property
    def said(self) -> str:
        """What became of it, for a message that has named it."""
        if "reason" in self.kept:
            return f"was a {self.type}, which cannot be unpickled: {self.kept['reason']}"
        return f"was a {self.type}, which cannot be written"

    @property
    def waits(self) -> bool:
        """Whether ``weights_only=False`` may make it again."""
        return "pickle" in self.kept and "reason" not in self.kept

    def __getattr__(self, asked: str) -> Any:
        if asked.startswith("__") or asked in ("name", "type", "kept"):  # a copy that is being made has none yet
            raise AttributeError(asked)
        raise AttributeError(
            f"{self.name or 'This value'} ({self.type}) could not be written into the checkpoint, which says so where it was "
            f"saved: it has no {asked!r}. Make it anew{TRUSTED if self.waits else ''}."
        )


@dataclasses.dataclass(frozen=True)
class StateOf(Unwritable):
    """Stands where an object could not be written, and its state could: what its ``state_dict()`` returned."""

    values: Any


def mark_state(value: Any, state: Any) -> dict[str, Any]:
    """What stands in a file for an object that tells its ``state``."""
    return {MARK: "state", "of": type_name(value), "values": encode(state)}


def encode(value: Any, name: str = "", pickles: _Pickles | None = None) -> Any:
    """``value`` in a form that loads with ``weights_only=True``; ``name`` is what to call it should it be unwritable.

    Beside the name and type of what is unwritable stands what ``pickles`` has of it.

    Plain values come back as the same objects; containers too, where nothing in them had to change. Subclasses of plain
    types (a dict, list, str ... of a user's own) are written as the plain type. What is encoded already stays as it is.
    """
    return _Encoder(pickles).encode(value, name)


def decode(plain: Any, objects: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What :func:`encode` was given. No module is imported and no code that the file names is run.

    ``objects`` says what is to stand for what was written by its name and type, with a pickle besides.

    Dataclasses, enums and named tuples come back as their class where that is already imported, else as a dict, the
    enum's value, or a plain tuple. What cannot be rebuilt comes back as :class:`Unwritable`.
    """
    kind = type(plain)
    if kind is dict:
        if MARK in plain:
            return _decode_marked(plain, objects)
        new = {key: decode(value, objects) for key, value in plain.items()}
        return new if any(new[key] is not plain[key] for key in new) else plain
    if kind is list or kind is tuple:
        items = [decode(item, objects) for item in plain]
        if all(a is b for a, b in zip(items, plain, strict=True)):
            return plain
        return items if kind is list else tuple(items)
    if kind is OrderedDict:
        return with_values(plain, {key: decode(value, objects) for key, value in plain.items()})
    return plain


def decode_file(plain: Any, name: str, objects: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """As :func:`decode`, of what was read from the file that errors call ``name``.

    Raises:
        CheckpointDamaged: it says of itself what cannot be true, or is nested too deeply.
    """
    try:
        return decode(plain, objects)
    except (Malformed, MemoryError) as error:
        raise CheckpointDamaged(f"The checkpoint {name} is damaged: {error}. Take another checkpoint.") from error
    except RecursionError:
        raise CheckpointDamaged(
            f"The checkpoint {name} is damaged: its values are nested too deeply. Take another checkpoint."
        ) from None


def unwritable(plain: Any) -> list[tuple[str, str]]:
    """Where in an encoded value something could not be written: its path (``hyper_parameters.layers[2]``) and type name."""
    return list(_find_unwritable(plain, ""))


_PLAIN = (bool, int, float, complex, str, bytes, type(None))


@ends
def is_writable(value: Any) -> bool:
    """Whether a file can hold ``value`` without pickle, and what comes out of it is of the same types."""
    if type(value) in (list, tuple):
        return all(map(is_writable, value))
    if type(value) is dict:
        return all(type(key) in _PLAIN and is_writable(each) for key, each in value.items())
    return type(value) in (torch.Tensor, np.ndarray, *_PLAIN) and not unwritable(encode({"value": value}))


def type_name(value: Any) -> str:
    """What to call the type of ``value`` in a message: for functions and classes their own name."""
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return f"function {value.__module__}.{value.__qualname__}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__}"
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _Pickles(Protocol):
    def of(self, value: Any, path: str) -> dict[str, Any]: ...


class _Encoder:
    def __init__(self, pickles: _Pickles | None) -> None:
        self._pickles = pickles
        self._open: set[int] = set()  # ids of the containers we are inside of

    def encode(self, value: Any, name: str) -> Any:
        kind = type(value)
        if kind in _SAME:
            return {MARK: "bytes"} if value == b"" and kind is bytes else value  # pickled as a call of `bytes`
        if kind is int:
            return value if value.bit_length() <= LARGEST_INT_BITS else {MARK: "int", "hex": hex(value)}
        if isinstance(value, torch.Tensor):
            return _encode_tensor(value)
        if id(value) in self._open:
            return self._lost(value, name, f"{type_name(value)} that contains itself")
        self._open.add(id(value))
        try:
            return self._encode_container(value, kind, name)
        finally:
            self._open.discard(id(value))

    def _encode_container(self, value: Any, kind: type, name: str) -> Any:
        if kind is dict or kind is OrderedDict or kind is Counter:
            return self._encode_dict(value, name)
        if kind is list or kind is tuple:
            items = self._encode_items(value, name)
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            return items if kind is list else tuple(items)
        if kind is set and all(_is_plain_key(item) for item in value):
            return value
        if kind is AttributeDict:
            return {MARK: "attributes", "values": self._encode_dict(dict(value), name)}
        for accepted, encoder in _ENCODERS:
            if isinstance(value, accepted):
                plain = encoder(value)
                if plain is not None:
                    return plain
        return self._encode_compound(value, kind, name)

    def _encode_compound(self, value: Any, kind: type, name: str) -> Any:
        if isinstance(value, torch.nn.Module):
            return self._lost(value, name, type_name(value))
        if kind in (argparse.Namespace, types.SimpleNamespace):
            return {MARK: "namespace", "of": kind.__name__, "values": self._encode_dict(vars(value), name)}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            there = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if hasattr(value, field.name)}
            return {MARK: "dataclass", "of": reference(kind), "values": self._encode_dict(there, name)}
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return {MARK: "namedtuple", "of": reference(kind), "values": self._encode_items(value, name)}
        if isinstance(value, defaultdict):
            factory = getattr(value.default_factory, "__name__", None)
            known = factory if _FACTORIES.get(factory or "") is value.default_factory else None
            return {MARK: "defaultdict", "factory": known, "values": self._encode_dict(dict(value), name)}
        if kind.__module__.split(".")[0] == "omegaconf":
            return self._encode_omegaconf(value, name)
        if isinstance(value, Mapping):
            return self._encode_dict(dict(value), name)
        if isinstance(value, set | frozenset):
            items = self._encode_items(list(value), name)
            return {MARK: "frozenset" if isinstance(value, frozenset) else "set", "items": items}
        if isinstance(value, tuple):
            return tuple(self._encode_items(value, name))
        if isinstance(value, list):
            return self._encode_items(value, name)
        if isinstance(value, deque):
            return {MARK: "deque", "items": self._encode_items(list(value), name), "maxlen": value.maxlen}
        if isinstance(value, slice):
            return {MARK: "slice", "items": self._encode_items((value.start, value.stop, value.step), name)}
        return self._lost(value, name, type_name(value))

    def _lost(self, value: Any, name: str, kind: str) -> dict[str, Any]:
        return _unwritable(name, kind, {} if self._pickles is None else self._pickles.of(value, name))

    def _encode_omegaconf(self, value: Any, name: str) -> Any:
        to_container = getattr(getattr(sys.modules.get("omegaconf"), "OmegaConf", None), "to_container", None)
        if to_container is None or type(value).__name__ not in ("DictConfig", "ListConfig"):
            return self._lost(value, name, type_name(value))
        return {MARK: "omegaconf", "values": self.encode(to_container(value, resolve=False), name)}

    def _encode_dict(self, value: dict[Any, Any], name: str) -> Any:
        if isinstance(value.get(MARK), str) and value[MARK] in _DECODERS:
            return value  # encoded already
        if MARK in value or not all(_is_plain_key(key) for key in value):
            items = [[self.encode(key, f"{name} key"), self.encode(item, _inside(name, key))] for key, item in value.items()]
            return {MARK: "ordered" if isinstance(value, OrderedDict) else "dict", "items": items}
        new = {key: self.encode(item, _inside(name, key)) for key, item in value.items()}
        if type(value) is dict:
            return new if any(new[key] is not value[key] for key in new) else value
        return with_values(value, new)

    def _encode_items(self, value: Any, name: str) -> list[Any]:
        return [self.encode(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _encode_tensor(value: torch.Tensor) -> torch.Tensor:
    if value.__dict__ or value.grad_fn is not None:
        value = value.detach()  # a view without the graph and without attributes a user hung on it
    if type(value) in (torch.Tensor, torch.nn.Parameter) or type(value).__module__.startswith("torch."):
        return value
    return value.detach().as_subclass(torch.Tensor)


def _encode_named(value: Any) -> Any:
    found = reference_of(value)
    return None if found is None else {MARK: "named", "of": found, "type": type_name(value)}


_ENCODERS: list[tuple[Any, Callable[[Any], Any]]] = [
    (Unwritable, lambda value: _unwritable(value.name, value.type, value.kept)),
    (type | types.FunctionType | types.BuiltinFunctionType, _encode_named),
    *SINGLE_ENCODERS,
]
"""Asked in this order. An encoder may return None: not a value it can tell."""


def _decode_marked(plain: dict[str, Any], objects: Callable[[dict[str, Any]], Any] | None) -> Any:
    kind = plain[MARK]
    decoder = _DECODERS.get(kind) if isinstance(kind, str) else None
    if decoder is None:  # written by a newer leyden
        return Unwritable("", f"leyden kind {kind!r}")
    try:
        if objects is not None and kind == "unwritable" and "pickle" in plain:
            return objects(plain)
        return decoder(plain, partial(decode, objects=objects))
    except (Malformed, RecursionError):
        raise
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        zoneinfo.ZoneInfoNotFoundError,
    ):
        return Unwritable("", f"leyden kind {kind!r}")


def _decode_dataclass(plain: dict[str, Any], decode: _Decode) -> Any:
    values = decode(plain["values"])
    kind = resolve(plain["of"])
    if kind is None or not dataclasses.is_dataclass(kind):
        return values
    instance: Any = object.__new__(kind)  # type: ignore[arg-type]  # `resolve` returns classes
    for field in dataclasses.fields(kind):
        if field.name in values:
            value = values[field.name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            return values  # the class has a field today that the file does not know
        object.__setattr__(instance, field.name, value)
    return instance


def _decode_namedtuple(plain: dict[str, Any], decode: _Decode) -> Any:
    values = tuple(decode(plain["values"]))
    kind = resolve(plain["of"])
    if kind is None or not issubclass(kind, tuple) or len(getattr(kind, "_fields", ())) != len(values):
        return values
    return tuple.__new__(kind, values)


def _decode_namespace(plain: dict[str, Any], decode: _Decode) -> Any:
    kind = types.SimpleNamespace if plain["of"] == "SimpleNamespace" else argparse.Namespace
    namespace = kind()
    vars(namespace).update(decode(plain["values"]))
    return namespace


def _decode_omegaconf(plain: dict[str, Any], decode: _Decode) -> Any:
    values = decode(plain["values"])
    create = getattr(getattr(sys.modules.get("omegaconf"), "OmegaConf", None), "create", None)
    if create is not None:
        return create(values)
    return AttributeDict(values) if isinstance(values, dict) else values


def _decode_items(plain: dict[str, Any], decode: _Decode) -> list[tuple[Any, Any]]:
    return [(decode(key), decode(value)) for key, value in plain["items"]]


def _decode_named(plain: dict[str, Any], decode: _Decode) -> Any:
    found = named(str(plain["of"]))
    return Unwritable("", str(plain["type"])) if found is None else found


def _alone(decoder: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any], _Decode], Any]:
    """The decoder of a value that holds no others."""
    return lambda plain, decode: decoder(plain)


def as_unwritable(plain: Mapping[str, Any]) -> Unwritable:
    """What stands for a value of which a file says ``plain``."""
    kept = {key: plain[key] for key in ("pickle", "tensors", "reason") if key in plain}
    return Unwritable(plain["name"], plain["type"], kept=kept)


_DECODERS: dict[str, Callable[[dict[str, Any], _Decode], Any]] = {
    **{kind: _alone(decoder) for kind, decoder in SINGLE_DECODERS.items()},
    "attributes": lambda plain, decode: AttributeDict(decode(plain["values"])),
    "dataclass": _decode_dataclass,
    "defaultdict": lambda plain, decode: defaultdict(_FACTORIES.get(plain["factory"] or ""), decode(plain["values"])),
    "deque": lambda plain, decode: deque(decode(plain["items"]), plain["maxlen"]),
    "dict": lambda plain, decode: dict(_decode_items(plain, decode)),
    "frozenset": lambda plain, decode: frozenset(decode(plain["items"])),
    "named": _decode_named,
    "namedtuple": _decode_namedtuple,
    "namespace": _decode_namespace,
    "omegaconf": _decode_omegaconf,
    "ordered": lambda plain, decode: OrderedDict(_decode_items(plain, decode)),
    "set": lambda plain, decode: set(decode(plain["items"])),
    "slice": lambda plain, decode: slice(*decode(plain["items"])),
    "state": lambda plain, decode: StateOf("", str(plain["of"]), decode(plain["values"])),
    "unwritable": lambda plain, decode: as_unwritable(plain),
}


def _unwritable(name: str, kind: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    return {MARK: "unwritable", "name": name, "type": kind, **{key: kept[key] for key in kept if key != "reason"}}


def _find_unwritable(plain: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(plain, dict):
        kind = plain.get(MARK)
        if kind == "unwritable":
            yield path or plain["name"], plain["type"]
        elif kind in ("dict", "ordered"):
            for key, value in plain["items"]:
                yield from _find_unwritable(key, f"{path} key")
                yield from _find_unwritable(value, _inside(path, key))
        elif kind is not None:
            yield from _find_unwritable(plain.get("values", plain.get("items")), path)
        else:
            for key, value in plain.items():
                yield from _find_unwritable(value, _inside(path, key))
    elif isinstance(plain, list | tuple):
        for index, value in enumerate(plain):
            yield from _find_unwritable(value, f"{path}[{index}]")


def _inside(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _is_plain_key(key: Any) -> bool:
    kind = type(key)
    if kind is int:
        return bool(key.bit_length() <= LARGEST_INT_BITS)
    if kind is bytes:
        return bool(key)
    return kind in _SAME or (kind is tuple and all(_is_plain_key(item) for item in key))


def with_values(container: Any, values: dict[Any, Any]) -> Any:
    if all(values[key] is container[key] for key in values):
        return container
    new = copy.copy(container)  # with what hangs on it: a state_dict has `_metadata`
    for key, value in values.items():
        new[key] = value
    return new
