"""A dict whose keys can be read as attributes: the form in which hyper-parameters are kept."""

import inspect
import types
from typing import Any

from typing_extensions import Self


class AttributeDict(dict[str, Any]):
    """A dict that also reads and writes its keys as attributes.

    Raises:
        AttributeError: there is no such key; the message names those that are there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # a dict's tells no signature
        super().__init__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            there = ", ".join(map(str, self)) or "none"
            raise AttributeError(f"There is no {name!r} here. Present: {there}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self:
            raise AttributeError(f"There is no {name!r} here.")
        del self[name]

    def __repr__(self) -> str:
        if not self:
            return ""
        width = max(len(str(key)) for key in self) + 3
        lines = []
        for key in sorted(self, key=str):
            label = f'"{key}":'
            lines.append(f"{label:<{width}} {self[key]}")
        return "\n".join(lines)

    def copy(self) -> Self:
        return type(self)(self)


def get_init_args(frame: types.FrameType) -> dict[str, Any]:
    """The arguments of the constructor that runs in ``frame``, without ``self``; nothing where none runs there."""
    local = frame.f_locals
    if "__class__" not in local:
        return {}
    parameters = inspect.signature(local["__class__"].__init__).parameters.values()
    found: dict[str, Any] = {}
    for parameter in list(parameters)[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            found.update(local.get(parameter.name, {}))
        elif parameter.kind is not parameter.VAR_POSITIONAL and parameter.name in local:
            found[parameter.name] = local[parameter.name]
    return found
