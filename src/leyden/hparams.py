"""Hyper-parameters: what a module's or datamodule's constructor was called with, remembered without a call."""

import argparse
import copy
import dataclasses
import functools
import inspect
import sys
import types
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch

from leyden.checkpoint.format import Unwritable, decode, encode, type_name
from leyden.checkpoint.pickles import Pickles
from leyden.errors import InvalidType, PossibleUserWarning, UnknownName, did_you_mean, warn_user
from leyden.hparams_attributes import AttributeDict as AttributeDict
from leyden.hparams_construct import load_datamodule_from_checkpoint as load_datamodule_from_checkpoint
from leyden.hparams_construct import load_module_from_checkpoint as load_module_from_checkpoint
from leyden.hparams_construct import makes_anew as makes_anew
from leyden.hparams_described import LIGHTNINGS_MAKER, MAKER_KEY, take_description
from leyden.spelling import refuse_unknown

_LARGEST_REMEMBERED = 1 << 20  # bytes of one constructor argument
_UNRECORDED = ("leyden.module", "leyden.datamodule")  # the bases hand arguments on, and take none of their own
_CONTAINERS = (list, tuple, set, frozenset)
_ASSIGNED: dict[type, str] = {argparse.Namespace: "namespace", dict: "dict"}  # 0.7.1's word for what ``self.hparams = x`` was
_MAPPINGS = (dict, OrderedDict, Counter, defaultdict, AttributeDict)


class UnknownHyperparameter(UnknownName, KeyError):
    """``save_hyperparameters`` was asked for a name that is no argument of the constructor."""


class HyperparametersMixin:
    """Adds :meth:`save_hyperparameters` and :attr:`hparams`.

    The constructor of every subclass is wrapped, its signature unchanged, so that what it was called with is known. Of this
    only what a checkpoint needs is kept: a copy of each argument that can be written without pickle and is no larger than a
    megabyte, and the type's name of any other. :meth:`save_hyperparameters` wants an argument's value at the moment of its
    call, which nobody but the running constructor knows: it reads the frames of this object's own constructors, and no others.
    What it was told to keep is kept as it is.
    """

    _hparams_name: str | None = None
    _log_hyperparams: bool = False
    __jit_unused_properties__: ClassVar[list[str]] = ["hparams", "hparams_initial"]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(base for base in cls.__mro__ if "__init__" in base.__dict__)
        # a plain class's constructor may be the first of the chain: then it is wrapped here, and the class left as it is
        own = owner is cls or not (issubclass(owner, HyperparametersMixin) or getattr(owner, "_is_protocol", False))
        init = owner.__dict__["__init__"]
        if own and isinstance(init, types.FunctionType) and cls.__module__ not in _UNRECORDED and not hasattr(init, "_records"):
            cls.__init__ = _recording(init)  # type: ignore[method-assign]  # the wrapper's signature is the wrapped one's

    def save_hyperparameters(
        self, *args: Any, ignore: Iterable[str] | str | None = None, frame: types.FrameType | None = None, logger: bool = True
    ) -> None:
        """Keep constructor arguments in :attr:`hparams`, from where they go into checkpoints and to the loggers.

        Args:
            args: Nothing: all arguments of the constructors that are running, of this class and of its bases, with the values
                that they have now. Names: these arguments. Dicts, namespaces, dataclass or OmegaConf objects: what stands in
                them.
            ignore: Names to leave out. They do not get into checkpoints either: loading takes the constructor's default for them.
            frame: Where to look for the constructors first; by default, in the caller.
            logger: Whether loggers get them too.

        Raises:
            UnknownHyperparameter: a name is no argument of the constructor.
            InvalidType: a value was given that has no names in it.
        """
        if not isinstance(ignore, Iterable | None):
            raise InvalidType("ignore", ignore, "a name, or a list of names")
        self._log_hyperparams = logger
        left_out = {ignore} if isinstance(ignore, str) else set(ignore or ())
        self._forget(left_out)
        known = self._known_arguments(sys._getframe(1) if frame is None else frame)
        self._name_unknown(left_out, {*known, *(key for arg in args if isinstance(arg, Mapping) for key in arg)}, args)
        arguments = {name: value for name, value in known.items() if name not in left_out}
        if not args:
            chosen, name = arguments, "kwargs" if arguments else None
        elif len(args) == 1 and is_config(args[0]):
            self._keep_config(_without(args[0], left_out), _name_of(args[0], arguments))
            return
        else:
            objects = [arg for arg in args if not isinstance(arg, str) and not _is_nothing(arg)]
            chosen = {}
            for arg in args:
                if isinstance(arg, str):
                    chosen[arg] = self._argument(arg, arguments)
                elif not _is_nothing(arg):
                    chosen.update(_named_values(arg))
            if not chosen and not objects:
                return
            chosen = {key: value for key, value in chosen.items() if key not in left_out}
            unwritten = {key for key, plain in self.__dict__.get("_init_kept", {}).items() if _is_unwritable(plain)}
            self._forget(unwritten - chosen.keys() - set(_items_of(self.hparams)))
            name = _name_of(objects[0], arguments) if len(objects) == 1 else "kwargs"
        self._hparams_name = name
        if is_config(self.hparams):
            self.__dict__["_hparams"] = AttributeDict(as_plain(self.hparams))
        assigned = assigned_hparams(self)
        if assigned is not None:  # what is saved now joins it
            self.__dict__["_hparams"] = AttributeDict(_named_values(assigned))
        self.hparams.update(chosen)
        self.remove_ignored_hparams(left_out)
        for key, value in chosen.items():
            if isinstance(value, torch.nn.Module):
                warn_user(
                    f"The hyper-parameter {key!r} is a torch module. Its weights are in the checkpoint anyway, and the module "
                    f"itself can only be pickled: it is made again where load_from_checkpoint gets weights_only=False. Leave it "
                    f"out: self.save_hyperparameters(ignore=[{key!r}]).",
                    PossibleUserWarning,
                )
        self.__dict__["_hparams_initial"] = _copied(self.hparams)

    @property
    def hparams(self) -> AttributeDict:
        """What :meth:`save_hyperparameters` kept. Yours to change; checkpoints hold what stands here when they are made.

        What was assigned to it, a namespace or a dict, stays the object that it is. An OmegaConf ``DictConfig`` that was saved as
        a whole, or set, stays one.
        """
        kept: AttributeDict = self.__dict__.setdefault("_hparams", AttributeDict())
        return kept

    @hparams.setter
    def hparams(self, values: Any) -> None:
        if values is None:  # 0.7's `self.hparams = hparams`, where none were passed
            self.__dict__.pop("_hparams", None)
            self.__dict__.pop("_hparams_initial", None)
            return
        self._hparams_name = _name_of(values, self._known_arguments(sys._getframe(1)))
        self._log_hyperparams = True
        if is_config(values):
            self._keep_config(_without(values, ()), self._hparams_name)
            return
        initial = _copied(_named_values(values))
        self.__dict__["_hparams"], self.__dict__["_hparams_initial"] = values, initial

    @property
    def hparams_initial(self) -> AttributeDict:
        """:attr:`hparams` as they were saved, whatever was changed since. A copy."""
        return _copied(self.__dict__.get("_hparams_initial", AttributeDict()))

    def remove_ignored_hparams(self, ignore_list: Iterable[str]) -> None:
        """Take names out of :attr:`hparams` that a base class put there."""
        if is_config(self.hparams):
            self.__dict__["_hparams"] = _without(self.hparams, ignore_list)
            return
        for name in ignore_list:
            _items_of(self.hparams).pop(name, None)

    def _keep_config(self, config: Any, name: str | None) -> None:
        """Let an OmegaConf object be the hyper-parameters: it replaces what was kept before."""
        self._hparams_name = name
        self.__dict__["_hparams"] = config
        self.__dict__["_hparams_initial"] = copy.deepcopy(config)

    def _set_hparams(self, values: Any) -> None:
        _items_of(self.hparams).update(_named_values(values))

    def _init_arguments(self) -> dict[str, Any]:
        """The arguments of the outermost constructor, encoded; one that cannot be written is recorded by its type's name."""
        kept: dict[str, Any] | None = self.__dict__.get("_init_kept")
        if kept is None and _made_by_dataclass(type(self)):
            return {name: _remembered(name, value) for name, value in self._known_arguments().items()}
        return dict(kept or {})

    def _check_names_taken(self) -> None:
        """Asked when the outermost constructor has run: raise for an attribute whose name is needed otherwise."""

    def _forget(self, ignored: set[str]) -> None:
        """Keep no value of these arguments. Of one that is required and cannot be written, its type stays, for the message."""
        kept: dict[str, Any] = self.__dict__.get("_init_kept", {})
        parameters = _parameters(type(self))
        for name in ignored & kept.keys():
            required = name in parameters and parameters[name].default is inspect.Parameter.empty
            if not (required and _is_unwritable(kept[name])):
                del kept[name]

    def _name_unknown(self, ignored: set[str], known: set[Any], given: tuple[Any, ...]) -> None:
        """Say so where a name that is to be left out is nowhere."""
        objects = [arg for arg in given if not isinstance(arg, str | Mapping) and not _is_nothing(arg)]
        known |= {name for each in objects for name in _named_values(each)} | set(_items_of(self.hparams)) | {"self"}
        ours = ("torch.", "leyden.", "builtins")
        own = [cls for cls in type(self).__mro__ if "__init__" in vars(cls) and not cls.__module__.startswith(ours)]
        parameters = [each for cls in own for each in _parameters(cls).values()]
        if any(each.kind is each.VAR_KEYWORD for each in parameters):
            return  # any name may be passed
        known |= {each.name for each in parameters}
        for name in sorted(ignored - known, key=str):
            warn_user(
                f"save_hyperparameters(ignore=[{name!r}]): the constructor of {type(self).__name__} has no such argument. "
                f"Nothing is left out.{did_you_mean(str(name), map(str, known - {'self'}))}",
                PossibleUserWarning,
            )

    def _known_arguments(self, frame: types.FrameType | None = None) -> dict[str, Any]:
        """The constructors' arguments: with the values that they have now in those that ``frame`` runs in, where it does."""
        if _made_by_dataclass(type(self)):
            fields = dataclasses.fields(self)  # type: ignore[arg-type]  # the line above asked
            return {field.name: getattr(self, field.name) for field in fields if field.init and hasattr(self, field.name)}
        described = self.__dict__.get("leyden_described")
        if described is not None:
            return dict(described)
        present = list(_arguments_in(frame, self))
        running = present or self.__dict__.get("_constructors")
        if running is None:
            return {name: decode(value) for name, value in self.__dict__.get("_init_kept", {}).items()}
        merged: dict[str, Any] = {}
        for arguments in running if present else reversed(running):  # the outermost constructor's word counts
            merged.update(arguments)
        return merged

    def _argument(self, name: str, arguments: dict[str, Any]) -> Any:
        if name not in arguments:
            raise UnknownHyperparameter(
                f"save_hyperparameters({name!r}): the constructor of {type(self).__name__} has no argument of that name."
                f"{did_you_mean(name, arguments)} Its arguments: {', '.join(arguments) or 'none'}."
            )
        return arguments[name]


def put_hparams(
    owner: HyperparametersMixin, checkpoint: dict[str, Any], pickles: Pickles | None = None, prefix: str = ""
) -> None:
    """Write ``owner``'s hyper-parameters into ``checkpoint``, under Lightning's keys, encoded. Nothing where it saved none.

    ``prefix`` is ``"datamodule_"`` for a datamodule. A value that cannot be written and is the constructor's own default
    is left out: the constructor will have it again. Of another one there is what ``pickles`` has of it.
    """
    config = is_config(owner.hparams)
    saved = as_plain(owner.hparams, resolve=False) if config else _named_values(owner.hparams)
    if not saved:
        return
    defaults = {name: parameter.default for name, parameter in _parameters(type(owner)).items()}
    values: dict[str, Any] = encode(saved, "hyper_parameters", pickles) if config else {}
    for name, value in () if config else saved.items():
        plain = encode(value, name, pickles)
        if not (_is_unwritable(plain) and defaults.get(name, inspect.Parameter.empty) is value):
            values[name] = plain
    if MAKER_KEY in values:
        values = {**values, MAKER_KEY: LIGHTNINGS_MAKER}  # by which Lightning knows it too
    checkpoint |= {
        f"{prefix}hparams_name": owner._hparams_name,
        f"{prefix}hyper_parameters": values,
        f"{prefix}hparams_type": "DictConfig" if config else "AttributeDict",
    }
    if not prefix and type(owner.hparams) in _ASSIGNED:
        checkpoint |= {"hparams": values, "hparams_type": _ASSIGNED[type(owner.hparams)]}  # as 0.7.1 wrote them


def assigned_hparams(owner: HyperparametersMixin) -> Any:
    """What was assigned to ``owner.hparams``, as it is; ``None`` where it was saved by :meth:`save_hyperparameters`."""
    return owner.hparams if type(owner.hparams) in _ASSIGNED else None


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    """``init``, with its arguments noted on the instance while it runs."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError:
            refuse_unknown(type(self).__name__, kwargs, init)
            init(self, *args, **kwargs)  # raises the error that the caller knows
            return
        bound.apply_defaults()
        arguments = _flattened(signature, bound.arguments)
        running = self.__dict__.get("_constructors")
        if running is None:
            running = self.__dict__["_constructors"] = []
            description = take_description()
            if description is not None:
                self.__dict__["leyden_described"] = description
            self.__dict__["_init_kept"] = _kept(arguments, signature)
        running.append(arguments)
        try:
            init(self, *args, **kwargs)
        except (AttributeError, TypeError):
            self._check_names_taken()  # which may be why
            raise
        finally:
            running.pop()
            if not running:
                self.__dict__.pop("_constructors", None)
        if not running:
            self._check_names_taken()

    recorded._records = True  # type: ignore[attr-defined]  # so that it is not wrapped twice
    recorded.__signature__ = signature  # type: ignore[attr-defined]  # for readers that do not follow __wrapped__
    return recorded


def _arguments_in(frame: types.FrameType | None, owner: object) -> Iterator[dict[str, Any]]:
    """The arguments of ``owner``'s constructors that ``frame`` runs in, from the innermost, with the values they have now."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount:
            values = frame.f_locals
            if values.get(code.co_varnames[0]) is owner:
                named = code.co_argcount + code.co_kwonlyargcount
                arguments = {name: values[name] for name in code.co_varnames[1:named] if name in values}
                if code.co_flags & inspect.CO_VARKEYWORDS:
                    arguments.update(values.get(code.co_varnames[named + bool(code.co_flags & inspect.CO_VARARGS)], {}))
                yield arguments
        frame = frame.f_back


def _flattened(signature: inspect.Signature, bound: Mapping[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for index, (name, value) in enumerate(bound.items()):
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        elif kind is not inspect.Parameter.VAR_POSITIONAL and index > 0:  # the first is self
            arguments[name] = value
    return arguments


def _kept(arguments: dict[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    kept = {}
    for name, value in arguments.items():
        plain = _remembered(name, value)
        default = signature.parameters[name].default if name in signature.parameters else inspect.Parameter.empty
        if not (_is_unwritable(plain) and value is default):
            kept[name] = plain
    return kept


def _remembered(name: str, value: Any) -> Any:
    """A plain copy of a constructor argument, made before the constructor can change it."""
    try:
        room = _room_left(value, _LARGEST_REMEMBERED)
        if room is None:
            return encode(Unwritable(name, type_name(value)))
        if room < 0:
            return encode(Unwritable(name, f"{type_name(value)} of more than a megabyte"))
        return copy.deepcopy(encode(value, name))
    except RecursionError:
        return encode(Unwritable(name, f"{type_name(value)} that is nested too deeply, or contains itself"))


def _room_left(value: Any, room: int) -> int | None:
    """``room`` less the bytes of ``value``; negative as soon as it is too large, ``None`` for what must not be walked."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        return room - value.numel() * value.element_size()
    if isinstance(value, torch.nn.Module):
        return None
    if kind.__module__ == "numpy":
        return room - int(getattr(value, "nbytes", 16))
    if isinstance(value, str | bytes | bytearray):
        return room - len(value)
    items: Iterable[Any]
    if kind in _MAPPINGS:
        items = (part for item in value.items() for part in item)
    elif kind in _CONTAINERS or (isinstance(value, tuple) and hasattr(value, "_fields")):
        items = value
    elif kind in (argparse.Namespace, types.SimpleNamespace):
        items = vars(value).values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = (getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(value, Mapping) and kind.__module__.split(".")[0] != "omegaconf":
        return None  # who knows what reading it costs
    else:
        return room - 16
    room -= 64
    for item in items:
        left = None if room < 0 else _room_left(item, room)
        if left is None:
            # an item that cannot be written does not keep the others from being written
            left = room - 64
        room = left
        if room < 0:
            break
    return room


def _named_values(given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        return dict(given)
    if isinstance(given, argparse.Namespace | types.SimpleNamespace):
        return dict(vars(given))
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        return {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    raise InvalidType("hyper-parameters", given, "a dict, a namespace, a dataclass object, or names of constructor arguments")


def _items_of(hparams: Any) -> Any:
    """The mapping in which hyper-parameters stand, to be changed."""
    return hparams if isinstance(hparams, Mapping) else vars(hparams)


def _name_of(given: Any, arguments: dict[str, Any]) -> str | None:
    """The constructor argument that ``given`` was passed as."""
    for name, value in arguments.items():
        if value is given:
            return name
    if isinstance(given, dict | argparse.Namespace):
        for name, value in arguments.items():
            if type(value) is type(given) and set(_named_values(value)) == set(_named_values(given)):
                return name
    return None


def _is_nothing(arg: Any) -> bool:
    return arg is None or (isinstance(arg, Mapping | list | tuple | set) and len(arg) == 0)


def is_config(given: object) -> bool:
    """Whether ``given`` is an OmegaConf mapping."""
    return type(given).__name__ == "DictConfig" and type(given).__module__.split(".")[0] == "omegaconf"


def as_plain(hparams: Any, resolve: bool = True) -> dict[str, Any]:
    """Hyper-parameters as a dict of their own; with ``resolve`` OmegaConf's interpolations become values where they can."""
    if not is_config(hparams):
        return dict(hparams)
    omegaconf = sys.modules["omegaconf"]
    try:
        plain = omegaconf.OmegaConf.to_container(hparams, resolve=resolve)
    except omegaconf.errors.OmegaConfBaseException:  # an interpolation that leads nowhere yet
        plain = omegaconf.OmegaConf.to_container(hparams, resolve=False)
    values: dict[str, Any] = plain
    return values


def _without(config: Any, names: Iterable[str]) -> Any:
    """A copy of an OmegaConf object that lacks some keys; the one given may be read-only."""
    left_out = set(names) & set(config.keys())
    if not left_out:
        return copy.deepcopy(config)
    return sys.modules["omegaconf"].OmegaConf.masked_copy(config, [key for key in config if key not in left_out])


def _copied(values: Mapping[str, Any]) -> AttributeDict:
    if is_config(values):
        return copy.deepcopy(values)  # type: ignore[return-value]  # it has items and attributes alike
    copied = AttributeDict()
    for name, value in values.items():
        if isinstance(value, torch.nn.Module):
            copied[name] = value
            continue
        try:
            copied[name] = copy.deepcopy(value)
        except Exception:  # a lock, a generator, a graph tensor ...: what cannot be copied is shared
            copied[name] = value
    return copied


def _made_by_dataclass(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and not hasattr(_init_of(cls), "_records")


def _is_unwritable(plain: Any) -> bool:
    return isinstance(plain, dict) and plain.get("__leyden__") == "unwritable"


def _init_of(cls: type) -> Any:
    return cls.__init__  # type: ignore[misc]  # a subclass's constructor may differ, and it is this one that is called


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(_init_of(cls)).parameters
    except (TypeError, ValueError):
        return {}
