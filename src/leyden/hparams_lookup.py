"""Arguments of constructors and attributes of modules, looked up by name: the tools that Lightning has for it."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import MutableMapping, Sequence
from typing import Any

from leyden.distributed.sharing import is_picklable
from leyden.errors import InvalidType, PossibleUserWarning, UnknownName, did_you_mean, warn_user
from leyden.hparams import HyperparametersMixin
from leyden.hparams_attributes import get_init_args


def clean_namespace(hparams: MutableMapping[str, Any] | Any) -> None:
    """Take out of a mapping or namespace what cannot be pickled, in place, with a warning for each."""
    values = hparams if isinstance(hparams, MutableMapping) else vars(hparams)
    for name in [name for name, value in values.items() if not is_picklable(value)]:
        warn_user(
            f"The hyper-parameter {name!r} ({type(values[name]).__name__}) cannot be pickled, and is taken out.",
            PossibleUserWarning,
        )
        del values[name]


def parse_class_init_keys(cls: type) -> tuple[str, str | None, str | None]:
    """What the constructor of ``cls`` calls ``self``, ``*args`` and ``**kwargs``; ``None`` for one that it has not."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())  # type: ignore[misc]  # that of this class
    kinds = {each.kind: each.name for each in parameters[1:]}
    return parameters[0].name, kinds.get(inspect.Parameter.VAR_POSITIONAL), kinds.get(inspect.Parameter.VAR_KEYWORD)


def collect_init_args(
    frame: types.FrameType, path_args: list[dict[str, Any]], inside: bool = False, classes: tuple[type, ...] = ()
) -> list[dict[str, Any]]:
    """The arguments of the constructors that ``frame`` and its callers run in, the most derived class's last.

    Args:
        frame: where to begin, in a constructor.
        path_args: what is found is appended to a copy of it.
        inside: whether the frame below was a constructor: the first that is none ends the search then.
        classes: constructors of these classes and their subclasses alone; of all without.
    """
    found = list(path_args)
    current: types.FrameType | None = frame
    while current is not None:
        owner = current.f_locals.get("__class__")
        if isinstance(owner, type) and (not classes or issubclass(owner, classes)):
            if current.f_code.co_name == "__init__":
                found.append(get_init_args(current))
            inside = True
        elif inside and current.f_code.co_name != "recorded":  # what notes the arguments stands between two constructors
            break
        current = current.f_back
    return found


def save_hyperparameters(
    obj: Any,
    *args: Any,
    ignore: Sequence[str] | str | None = None,
    frame: types.FrameType | None = None,
    given_hparams: dict[str, Any] | None = None,
) -> None:
    """``obj.save_hyperparameters(...)``, called by another than the constructor.

    Args:
        obj: a module, datamodule or another :class:`HyperparametersMixin`.
        args, ignore, frame: see there.
        given_hparams: what was passed, instead of what is found in ``frame``; ``args`` then choose among them.
    """
    if not isinstance(obj, HyperparametersMixin):
        raise InvalidType("obj", obj, "a module, a datamodule, or another object with HyperparametersMixin")
    if given_hparams is None:
        obj.save_hyperparameters(*args, ignore=ignore, frame=sys._getframe(1) if frame is None else frame)
        return
    named = [arg for arg in args if isinstance(arg, str)]
    for name in named:
        if name not in given_hparams:
            raise UnknownName(f"save_hyperparameters({name!r}): it was not passed.{did_you_mean(name, given_hparams)}")
    chosen = {name: given_hparams[name] for name in named} if named else {} if args else given_hparams
    obj.save_hyperparameters(dict(chosen), *(arg for arg in args if not isinstance(arg, str)), ignore=ignore)


def _holders(model: Any, attribute: str) -> list[Any]:
    """Who has ``attribute``: the module, its hyper-parameters, its datamodule and the datamodule's, the one that counts last."""
    found: list[Any] = [model] if hasattr(model, attribute) else []
    datamodule = getattr(getattr(model, "_trainer", None), "datamodule", None)
    for owner in (model, datamodule):
        if owner is datamodule and owner is not None and hasattr(owner, attribute):
            found.append(owner)
        hparams = getattr(owner, "hparams", None)
        if hparams is not None and _has(hparams, attribute):
            found.append(hparams)
    return found


def _has(hparams: Any, attribute: str) -> bool:
    return attribute in hparams if isinstance(hparams, MutableMapping) else hasattr(hparams, attribute)


def lightning_hasattr(model: Any, attribute: str) -> bool:
    """Whether ``model``, its hyper-parameters, or its datamodule (and that one's) has ``attribute``."""
    return bool(_holders(model, attribute))


def lightning_getattr(model: Any, attribute: str) -> Any:
    """``attribute`` of ``model``, of its hyper-parameters or of its datamodule, which counts first.

    Raises :class:`UnknownName`, an ``AttributeError``, where nobody has it.
    """
    holder = _require(model, attribute)[-1]
    return holder[attribute] if isinstance(holder, MutableMapping) else getattr(holder, attribute)


def lightning_setattr(model: Any, attribute: str, value: Any) -> None:
    """Set ``attribute`` wherever :func:`lightning_hasattr` looks and it is. Raises :class:`UnknownName` where it is nowhere."""
    for holder in _require(model, attribute):
        if isinstance(holder, MutableMapping):
            holder[attribute] = value
        else:
            setattr(holder, attribute, value)


def _require(model: Any, attribute: str) -> list[Any]:
    holders = _holders(model, attribute)
    if not holders:
        known = [name for name in (*vars(model), *getattr(model, "hparams", ())) if not str(name).startswith("_")]
        raise UnknownName(
            f"{attribute!r} is neither an attribute of {type(model).__name__}, nor among its hyper-parameters, nor its "
            f"datamodule's.{did_you_mean(attribute, known)}"
        )
    return holders
