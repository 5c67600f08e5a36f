"""Refuse names that are misspelt: hooks that would never be called, arguments that nobody reads."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar

from leyden.checked import check_annotated, plain_number
from leyden.constructed import reader_of
from leyden.errors import MisconfigurationException, PossibleUserWarning, UnknownName, did_you_mean, warn_user
from leyden.own_calls import calls_itself, is_ours
from leyden.resembling import FAMILIES, nearest, one_edit_apart

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=type)


def exact_arguments(cls: C) -> C:
    """Decorates a class: what its constructor is given is what its annotations say, and a word that it does not know is named.

    A number of NumPy's is given to it as Python's own.

    The constructor speaks first: what it has to say of an argument is more than that it is no text. A subclass that does not
    call it is told so when something of it is missing.
    """
    init = cls.__init__  # type: ignore[misc]  # that of the class itself, whatever a subclass's is
    names = list(inspect.signature(init).parameters)[1:]

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        args, kwargs = _plain(args, kwargs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        try:
            init(self, *args, **kwargs)
        except MisconfigurationException:
            raise
        except (Exception, SystemExit) as error:  # a parser of command lines exits
            if isinstance(error, TypeError):
                refuse_unknown(cls.__name__, kwargs, init)
                _refuse_misspelt_required(cls.__name__, given, init)
            check_annotated(init, given)
            raise
        check_annotated(init, given)

    cls.__init__ = checked  # type: ignore[misc]  # the wrapper's signature is the wrapped one's
    if not hasattr(cls, "__getattr__"):
        cls.__getattr__ = reader_of(cls)  # type: ignore[attr-defined]  # C is any class
    return cls


def exact_call(method: Callable[P, T]) -> Callable[P, T]:
    """Decorates a method: a word that it does not know is named, and a number of NumPy's is given to it as Python's own."""

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse_unknown(method.__qualname__, kwargs, method)
        args, kwargs = _plain(args, kwargs)  # type: ignore[assignment]  # what they are made of has no name
        return method(*args, **kwargs)

    return checked


def _plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(map(plain_number, args)), {name: plain_number(value) for name, value in kwargs.items()}


def for_tests(*names: str) -> Callable[[C], C]:
    """As :func:`exact_arguments`; and these arguments are taken, and shown to nobody, such as a configuration's parser."""

    def hide(cls: C) -> C:
        exact_arguments(cls)
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]  # that of the class itself, whatever a subclass's is
        shown = [each for name, each in signature.parameters.items() if name not in names]
        cls.__init__.__signature__ = signature.replace(parameters=shown)  # type: ignore[misc]  # inspect looks for it there
        return cls

    return hide


def refuse_unknown(who: str, given: Iterable[str], function: Callable[..., Any], also: Iterable[str] = ()) -> None:
    """Raise :class:`UnknownName` for a name in ``given`` that ``function`` takes no argument for, and that ``also`` lacks."""
    if any(each.kind is each.VAR_KEYWORD for each in inspect.signature(function).parameters.values()):
        return
    known = [*arguments_of(function), *also]
    for name in given:
        if name not in known:
            raise unknown_argument(who, name, known)


def _refuse_misspelt_required(who: str, given: Iterable[str], init: Callable[..., Any]) -> None:
    """The constructor hands other words on, and lacks an argument that one of them all but is."""
    given, parameters = list(given), inspect.signature(init).parameters
    lacks = [name for name in arguments_of(init) if parameters[name].default is inspect.Parameter.empty and name not in given]
    for name in given:
        if name not in parameters and did_you_mean(name, lacks):
            raise unknown_argument(who, name, lacks)


def arguments_of(function: Callable[..., Any]) -> list[str]:
    """The names by which ``function`` can be given something, but for ``self``."""
    parameters = inspect.signature(function).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, each in parameters.items() if each.kind in named and name not in ("self", "cls")]


def unknown_argument(who: str, name: str, known: Iterable[str], former: Iterable[str] = ()) -> UnknownName:
    """The error for an argument that nobody reads: the nearest that is read, today's before ``former``, else all of today."""
    known = list(known)
    said = did_you_mean(name, known, former) or f" It takes: {', '.join(known) or 'none'}."
    return UnknownName(f"{who} got an unknown argument {name!r}.{said}")


def not_a_hook(function: Callable[P, Any]) -> Callable[P, Any]:
    """Mark a method whose name merely resembles a hook's as the user's own, so that it is not taken for a misspelling."""
    function.__leyden_not_a_hook__ = True  # type: ignore[attr-defined]  # the mark is looked for in refuse_misspelt
    return function


def refuse_misspelt(
    part: object,
    base: type,
    known: Iterable[str],
    legacy: Iterable[str] = (),
    attributes: Iterable[str] = (),
    elsewhere: Mapping[str, str] | None = None,
    passed_over: Iterable[str] = (),
) -> None:
    """Raise :class:`UnknownName` where ``part`` has a public method that looks like a hook and is none, so that nobody calls it.

    That is one edit from a hook, says the same in other words, begins as only hooks do (``on_train_...``), or is a hook of
    other parts: ``elsewhere`` says of which. ``legacy`` names are known, but for those ``passed_over`` because today's stands
    beside them. A method marked by :func:`not_a_hook` is left alone, and so is one that its author's own code calls. Where the
    class has the hook that it means beside it, or the name lacks an old hook's ``on_`` (``epoch_end``), the word is a warning.
    ``attributes`` are what may be set on ``part``: one that is one edit from them is refused too.
    """
    legacy, known = set(legacy), {name for name in known if not name.startswith("_")}
    hooks, former = sorted(known - legacy), sorted(known & legacy)
    allowed = {*known, *legacy}.union(*(dir(owner) for owner in type(part).__mro__ if is_ours(owner)))
    allowed.difference_update(passed_over)
    for owner, name, function in _own_methods(part, base):
        if name in allowed or getattr(function, "__leyden_not_a_hook__", False):
            continue
        others = (elsewhere or {}).get(name)
        near, near_former = ([], []) if others else (nearest(name, hooks), nearest(name, former))
        if not (near or near_former or others or name.startswith(FAMILIES)) or calls_itself(part, name):
            continue
        doubtful = name in passed_over or f"on_{name}" in legacy
        beside = doubtful or (
            owner is not base
            and any(vars(owner).get(hook) not in (None, getattr(base, hook, None)) for hook in [*near, *near_former])
        )
        if beside and name[-1].isdigit():
            continue  # forward1, of which there are several
        near = near or near_former or _closest(name, hooks) or _closest(name, former)
        meant = f" It is a hook of {others}." if others else f" Did you mean {_listed(near)}?" if near else ""
        said = f"{owner.__qualname__}.{name} is no hook of {base.__name__} and would never be called.{meant}"
        own = "If the method is meant to be your own, mark it with @leyden.not_a_hook or rename it."
        if not beside:
            raise UnknownName(f"{said} {own}")
        warn_user(f"{said} {own}", PossibleUserWarning)
    settable = sorted(attributes)
    for name in vars(part):
        near = [] if name in settable or name.startswith("_") else _one_edit_from(name, settable)
        if near:
            raise UnknownName(
                f"{type(part).__qualname__} sets self.{name}, which means nothing. Did you mean {_listed(near)}? If it is meant "
                f"to be your own, rename it."
            )


def _listed(names: list[str]) -> str:
    return " or ".join(map(repr, names))


def _own_methods(part: object, base: type) -> Iterator[tuple[type, str, object]]:
    home = type(part).__module__.split(".")[0]
    for owner in type(part).__mro__:
        if owner is base or owner in base.__mro__ or is_ours(owner):
            continue
        if owner.__module__.split(".")[0] != home and not issubclass(owner, base):
            continue  # another library's mixin, which knows nothing of hooks
        for name, value in vars(owner).items():
            if name.startswith("_"):
                continue
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if callable(function) and not isinstance(function, type):
                yield owner, name, function
    for name, value in list(vars(part).items()):
        if not name.startswith("_") and inspect.isroutine(value):
            yield type(part), name, value


def _closest(name: str, hooks: list[str]) -> list[str]:
    import difflib

    return difflib.get_close_matches(name, hooks, n=1, cutoff=0.5)


def _one_edit_from(name: str, names: list[str]) -> list[str]:
    return [other for other in names if abs(len(other) - len(name)) <= 1 and one_edit_apart(name, other)]
