"""The outline of a torch file: its pickle run dry, to see what it asks for before any of it is given."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

_LARGEST = 1 << 24  # what a plain call in a pickle may be given as a number; sizes of tensors stand in calls that rebuild them
# Opcodes that reserve what a number in the file says before they read it, or that stand in no file that is read without code.
_REFUSED = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST)


_BYTES = {"Half": 2, "BFloat16": 2, "Short": 2, "Float": 4, "Int": 4, "QInt32": 4, "Double": 8, "Long": 8, "ComplexFloat": 8}
_BYTES["ComplexDouble"] = 16  # of an element; in all other storages one


class Implausible(ValueError):
    """A file asks for what it does not hold. The text says what."""


class Stored:
    """A storage that the pickle refers to: how many elements it is said to have."""

    def __init__(self, elements: int) -> None:
        self.elements = elements


class Made:
    """What a call in the pickle would have made."""

    def append(self, item: Any) -> None:
        """As a list."""

    def extend(self, items: Any) -> None:
        """As a list."""

    def add(self, item: Any) -> None:
        """As a set."""

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Named:
    """A function or class that the pickle names. Calling it checks what it is given, and makes nothing."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __call__(self, *arguments: Any) -> Any:
        if self.name == "_rebuild_from_type_v2" and len(arguments) > 2 and isinstance(arguments[0], Named):
            arguments[0](*arguments[2])
        elif arguments and isinstance(arguments[0], Stored):
            _check_bounds(*arguments[:4])
        elif not self.name.startswith("_rebuild"):
            for number in arguments:
                if type(number) is int and number > _LARGEST:
                    raise Implausible(f"it asks for {self.module}.{self.name}({number})")
        return Made()

    def __new__(cls, *arguments: Any) -> Any:
        return object.__new__(cls)


class _Dry(pickle._Unpickler):  # the one in Python: what it remembers stands in a dict
    dispatch: ClassVar[dict[int, Any]] = {
        code: deed for code, deed in pickle._Unpickler.dispatch.items() if code not in {each[0] for each in _REFUSED}
    }

    def __init__(self, content: bytes, sizes: Mapping[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else Named(module, name)

    def persistent_load(self, reference: Any) -> Any:
        _, kind, key, _, elements = reference
        if type(elements) is not int or elements < 0:
            raise Implausible(f"it has a storage of {elements!r} elements")
        size, asked = self._sizes.get(str(key)), elements * _itemsize(kind)
        if size is None and asked:
            raise Implausible(f"its record data/{key} is missing")
        if asked > (size or 0):
            raise Implausible(f"its record data/{key} holds {size} bytes, and a storage of {asked} is asked for")
        return Stored(elements)


def outline(content: bytes, sizes: Mapping[str, int]) -> Any:
    """What the pickle ``content`` holds, with tensors and other objects left out; ``None`` where that cannot be told.

    ``sizes`` are the bytes of the records ``data/KEY``.

    Raises:
        Implausible: it asks for memory that the file does not fill.
    """
    try:
        return _Dry(content, sizes).load()
    except Implausible:
        raise
    except Exception:  # whatever is wrong with it, the loader proper will say
        return None


def _itemsize(kind: Any) -> int:
    return _BYTES.get(kind.name.removesuffix("Storage"), 1) if isinstance(kind, Named) else 1


def _check_bounds(storage: Stored, offset: Any = 0, size: Any = (), stride: Any = ()) -> None:
    if isinstance(size, Made) or isinstance(stride, Made):
        return
    numbers = [offset, *size, *stride]
    if any(type(number) is not int or number < 0 for number in numbers) or len(size) != len(stride):
        raise Implausible(f"it has a tensor of the shape {size!r} with the strides {stride!r}")
    if 0 in size:
        return
    end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if end > storage.elements:
        raise Implausible(f"it has a tensor of the shape {tuple(size)} that needs {end} elements, and holds {storage.elements}")
