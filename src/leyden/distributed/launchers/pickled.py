"""What of the user's objects cannot be sent to a new process, by the path of attributes that leads there."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

_DEPTH = 12


class _Nowhere:
    def write(self, _: object) -> int:
        return 0


def error_of(what: object) -> Exception | None:
    """What pickling ``what`` raises, or ``None``. The bytes are kept nowhere."""
    try:
        pickle.Pickler(_Nowhere()).dump(what)
    except Exception as error:
        return error
    return None


def culprit(what: object, path: str, depth: int = _DEPTH) -> str:
    """The path of the innermost object below ``what`` that cannot be pickled by itself: ``model.layers[0].activation``."""
    for step, part in _parts(what) if depth else ():
        if not isinstance(part, Tensor | str | bytes | int | float) and error_of(part) is not None:
            return culprit(part, path + step, depth - 1)
    return path


def _parts(what: object) -> Iterator[tuple[str, Any]]:
    if isinstance(what, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in what.items())
    elif isinstance(what, list | tuple | set | frozenset):
        yield from ((f"[{number}]", value) for number, value in enumerate(what))
    else:
        if isinstance(what, nn.ModuleList | nn.Sequential):
            yield from ((f"[{number}]", child) for number, child in enumerate(what))
        elif isinstance(what, nn.Module):
            yield from ((f".{name}", child) for name, child in what.named_children())
        state = what.__getstate__() if hasattr(what, "__getstate__") else vars(what) if hasattr(what, "__dict__") else {}
        if isinstance(state, tuple):
            state = {name: value for part in state if isinstance(part, Mapping) for name, value in part.items()}
        for name, value in state.items() if isinstance(state, Mapping) else ():
            if name not in ("_modules", "_parameters", "_buffers"):
                yield f".{name}", value
