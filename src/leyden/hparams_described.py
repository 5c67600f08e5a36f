"""Hyper-parameters as a configuration describes them: classes by import path, and how a module is made of such a description."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from leyden.errors import CheckpointForeign, CheckpointMismatch, MissingPackage

ModuleType = TypeVar("ModuleType")
"""The class that :func:`instantiate_module` is asked for."""
MAKER = "leyden.cli.instantiate_module"
LIGHTNINGS_MAKER = "lightning.pytorch.cli.instantiate_module"
MAKER_KEY, CLASS_KEY = "_instantiator", "_class_path"
_HARMLESS = ("leyden.", "torch.nn.", "torch.optim.", "torch.distributions.", "torchmetrics.")

_description: ContextVar[dict[str, Any] | None] = ContextVar("leyden_description", default=None)


@contextlib.contextmanager
def described_as(values: dict[str, Any]) -> Iterator[None]:
    """The first object with hyper-parameters that is made inside keeps these, in place of what its constructor is given."""
    before = _description.set({**values, MAKER_KEY: MAKER})
    try:
        yield
    finally:
        _description.reset(before)


def take_description() -> dict[str, Any] | None:
    """What the object that is being made is described as; ``None`` where nobody said. It is told once."""
    description = _description.get()
    if description is not None:
        _description.set(None)
    return description


def is_described(saved: object) -> bool:
    """Whether saved hyper-parameters are a description."""
    return isinstance(saved, Mapping) and saved.get(MAKER_KEY) in (MAKER, LIGHTNINGS_MAKER)


def instantiate_module(class_type: type[ModuleType], config: Mapping[str, Any]) -> ModuleType:
    """An object of ``class_type``, or of the subclass that ``config`` names under ``_class_path``, and of all that it is made of.

    Args:
        class_type: the class that is asked for.
        config: the constructor's arguments; an object among them as ``{"class_path": ..., "init_args": {...}}``.

    Raises:
        MissingPackage: jsonargparse is not installed.
    """
    cls, path = class_type, config.get(CLASS_KEY)
    if path is not None:
        module, _, name = str(path).rpartition(".")
        cls = getattr(importlib.import_module(module), name)
    values = {name: value for name, value in config.items() if name not in (MAKER_KEY, CLASS_KEY)}

    def make(kind: Any, *args: Any, **kwargs: Any) -> Any:
        with described_as(dict(config)) if kind is cls else contextlib.nullcontext():
            return kind(*args, **kwargs)

    made: ModuleType = _made(cls, values, make)
    return made


def class_described(cls: type, saved: Mapping[str, Any], where: str, trusted: bool) -> type:
    """The class that a checkpoint's description is of: ``cls``, or a subclass of it."""
    path = saved.get(CLASS_KEY)
    if not isinstance(path, str) or path.rpartition(".")[2] == cls.__name__:  # also where another program called it __main__
        return cls
    _check(trusted or _may_be_made(path, cls), path, where)
    named = _found(path)
    if named is None:
        raise CheckpointMismatch(f"{where} is of a {path}, which cannot be imported here. Import what defines it, and take it.")
    return named if isinstance(named, type) and issubclass(named, cls) else cls


def made_from_file(
    cls: type, values: Mapping[str, Any], given: Mapping[str, Any], where: str, trusted: bool, *, names_class: bool = False
) -> Any:
    """As :func:`instantiate_module`, of what a checkpoint says, with the arguments ``given`` beside the file's.

    What is made is described again, with its class where the file ``names_class``, so that a checkpoint of it tells as much;
    unless its arguments are the file's very values, which describe themselves.

    A file that is not ``trusted`` may have classes made that lie in torch's ``nn`` and ``optim``, in the package of ``cls``, or
    in code of the program's own that is imported; no module is imported for it but of these packages.

    Raises:
        CheckpointForeign: it names another class or function.
        CheckpointMismatch: what it says does not fit the constructor.
    """
    values = checked_description(cls, values, where, trusted)

    def make(kind: Any, *args: Any, **kwargs: Any) -> Any:
        for value in () if trusted else _functions_in([*args, *kwargs.values()]):
            _check(_is_harmless(value), f"{_module_of(value)}.{value.__qualname__}", where)
        if kind is not cls:
            return kind(*args, **kwargs)
        named = {CLASS_KEY: f"{cls.__module__}.{cls.__qualname__}"} if names_class else {}
        plain = not (named or args) and all(_is_same(kwargs.get(name), value) for name, value in values.items())
        with contextlib.nullcontext() if plain else described_as({**named, **values, **given}):
            return kind(*args, **kwargs, **given)

    try:
        return _made(cls, values, make, skip=given)
    except MissingPackage:
        if any(_class_paths(values)):
            raise
        return cls(**values, **given)


def checked_description(cls: type, values: Mapping[str, Any], where: str, trusted: bool) -> dict[str, Any]:
    """A checkpoint's description, for this program. Raises :class:`CheckpointForeign` as :func:`made_from_file` does."""
    described: dict[str, Any] = _of_this_program(values, cls)
    described.pop(MAKER_KEY, None)
    paths = [*_class_paths(described), *([described[CLASS_KEY]] if CLASS_KEY in described else [])]
    for path in () if trusted else paths:
        _check(_may_be_made(path, cls), path, where)
    return described


def _made(cls: type, values: Mapping[str, Any], make: Callable[..., Any], skip: Collection[str] = ()) -> Any:
    try:
        import jsonargparse
    except ImportError as error:
        raise MissingPackage("jsonargparse", "A module made from its configuration", extra="cli") from error
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "module", fail_untyped=False, skip=set(skip))
    with what_is_any_is_made():
        try:
            parsed = parser.parse_object({"module": dict(values)})
        except jsonargparse.ArgumentError as error:
            raise CheckpointMismatch(f"The configuration does not fit {cls.__name__}: {error}") from error
        if hasattr(parser, "instantiate"):
            return parser.instantiate(parsed, instantiators=[(make, object, True)]).module
        parser.add_instantiator(make, object)
        return parser.instantiate_classes(parsed).module


@contextlib.contextmanager
def what_is_any_is_made() -> Iterator[None]:
    """What an argument without a type is given is made, where it says a class: jsonargparse only announces that it may not be."""
    with warnings.catch_warnings():
        for said in ("instantiate_subclass_spec_in_any", "one JsonargparseDeprecationWarning", "denied by the"):
            warnings.filterwarnings("ignore", message=f"(?s).*{said}")
        yield


# -- what a file may have made
def _check(allowed: bool, path: str, where: str) -> None:
    if not allowed:
        raise CheckpointForeign(
            f"{where} wants {path} to be made, which lies neither in torch's nn and optim nor in this program's own imported "
            "code. Pass that argument to load_from_checkpoint, import what defines it first, or, if you trust the file, say "
            "weights_only=False."
        )


def _may_be_made(path: str, cls: type) -> bool:
    module, _, _name = path.rpartition(".")
    if path.startswith(_HARMLESS) or path.split(".")[0] == cls.__module__.split(".")[0]:
        return True
    found = sys.modules.get(module)
    return found is not None and _is_the_programs_own(found)


def _is_the_programs_own(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__":
        return True
    top = module.__name__.split(".")[0]
    return top not in sys.stdlib_module_names and file is not None and "site-packages" not in file


def _is_harmless(function: Any) -> bool:
    top = _module_of(function).split(".")[0]
    return top in ("math", "operator", "_operator") or top not in {*sys.stdlib_module_names, "builtins"}


def _module_of(function: Any) -> str:
    return getattr(function, "__module__", None) or type(getattr(function, "__self__", None)).__module__ or "builtins"


def _is_same(made: Any, said: Any) -> bool:
    """Whether nothing was made of what the description says: it stands for itself."""
    if type(made) is not type(said):
        return False
    if isinstance(said, Mapping):
        return made.keys() == said.keys() and all(_is_same(made[key], value) for key, value in said.items())
    if isinstance(said, list | tuple):
        return len(made) == len(said) and all(map(_is_same, made, said))
    return bool(made == said)


def _functions_in(value: Any) -> Iterator[Any]:
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        yield value
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _functions_in(item)


def _class_paths(value: Any) -> Iterator[str]:
    for key, item in value.items() if isinstance(value, Mapping) else enumerate(value if isinstance(value, list) else ()):
        if key == "class_path" and isinstance(item, str):
            yield item
        yield from _class_paths(item)


def _of_this_program(value: Any, cls: type) -> Any:
    """A description by another program: what lay in its ``__main__`` is where ``cls`` is now."""
    if isinstance(value, list):
        return [_of_this_program(item, cls) for item in value]
    if not isinstance(value, Mapping):
        return value
    described = {key: _of_this_program(item, cls) for key, item in value.items()}
    for key in ("class_path", CLASS_KEY):
        path = described.get(key)
        if isinstance(path, str) and path.startswith("__main__.") and _found(path) is None:
            here = f"{cls.__module__}.{path.removeprefix('__main__.')}"
            described[key] = here if _found(here) is not None else path
    return described


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except (ImportError, ValueError):
        return None
