"""An attribute that a base class's constructor sets, and that is missing: who forgot ``super().__init__()`` is told so."""

import dis
import functools
import inspect
from collections.abc import Callable
from typing import Any

from leyden.errors import NotConstructed


def read_again(part: object, name: str) -> Any:
    """For a ``__getattr__`` that does not know ``name``: raises what reading it raised in the first place.

    Raises:
        NotConstructed: a base class of ours sets it in its constructor, which has not run.
    """
    tell_forgotten(part, name)
    return object.__getattribute__(part, name)


def tell_forgotten(part: object, name: str) -> None:
    """Raise :class:`NotConstructed` where a constructor of ours that ``part`` has not called would have set ``name``."""
    kind = type(part)
    owner = next((each for each in kind.__mro__ if name in _set_by(each)), None)
    if owner is None or inspect.getattr_static(kind, name, None) is not None:
        return  # nobody's, or a property in which something else is missing
    before = kind.__mro__[: kind.__mro__.index(owner)]
    own = next((each for each in before if "__init__" in vars(each) and not _is_ours(each)), None)
    if own is not None:
        raise NotConstructed(
            f"{own.__qualname__}.__init__ has to call super().__init__(), and before it uses what that sets: {name!r} is missing."
        )


def reader_of(cls: type) -> Callable[[Any, str], Any]:
    """The ``__getattr__`` of a class whose constructor sets attributes. Other bases of a subclass may have one of theirs."""

    def __getattr__(self: Any, name: str) -> Any:
        beyond = getattr(super(cls, self), "__getattr__", None)
        if beyond is None:
            return read_again(self, name)
        try:
            return beyond(name)
        except AttributeError:
            tell_forgotten(self, name)
            raise

    return __getattr__


@functools.cache
def _set_by(owner: type) -> frozenset[str]:
    """What the constructor of a class of ours assigns."""
    init = vars(owner).get("__init__")
    if not _is_ours(owner) or not inspect.isfunction(init):
        return frozenset()
    return frozenset(each.argval for each in dis.get_instructions(inspect.unwrap(init)) if each.opname == "STORE_ATTR")


def _is_ours(owner: type) -> bool:
    return owner.__module__.partition(".")[0] == "leyden"
