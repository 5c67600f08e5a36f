"""A module or datamodule made anew from a checkpoint: which arguments its constructor gets, and how its state is loaded."""

from __future__ import annotations

import argparse
import ast
import csv
import dataclasses
import functools
import inspect
import io
import os
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from leyden.checked import check_bool
from leyden.checkpoint.files import TorchCheckpointIO, is_remote, local_path
from leyden.checkpoint.format import TRUSTED, Unwritable, decode, decode_file
from leyden.checkpoint.forms import usable
from leyden.checkpoint.layout import check_parts
from leyden.checkpoint.lost import lost_named
from leyden.checkpoint.pickles import Objects
from leyden.checkpoint.random_state import preserved_random_state
from leyden.checkpoint.verified import bytes_verified
from leyden.errors import (
    CheckpointForeign,
    CheckpointMismatch,
    CheckpointMissing,
    ConflictingOptions,
    InvalidOption,
    InvalidType,
    LeydenWarning,
    MissingHyperparameter,
    MissingModel,
    MissingPackage,
    warn_user,
)
from leyden.hparams_attributes import AttributeDict
from leyden.hparams_described import CLASS_KEY, class_described, is_described, made_from_file
from leyden.notices import notice
from leyden.spelling import arguments_of, unknown_argument
from leyden.types import MapLocation, Path

Made = TypeVar("Made")


if TYPE_CHECKING:
    makes_anew = classmethod
else:

    class makes_anew(classmethod):
        """A class method that makes an object. Called on one, which it leaves as it is, it says so with a notice.

        Lightning allowed that until 2.1 (``model = model.load_from_checkpoint(path)``).
        """

        def __get__(self, made: Any, owner: type | None = None) -> Any:
            of_the_class = super().__get__(made, owner)
            if made is None:
                return of_the_class

            @functools.wraps(of_the_class)
            def of_an_object(*args: Any, **kwargs: Any) -> Any:
                called, name = of_the_class.__name__, type(made).__name__
                notice(f"{name}().{called}", f"{name}.{called}: the object stays as it is, use what is returned")
                return of_the_class(*args, **kwargs)

            return of_an_object


def load_module_from_checkpoint(
    cls: type[Made],
    checkpoint_path: Path | Any,
    map_location: MapLocation = None,
    hparams_file: Path | None = None,
    strict: bool | None = None,
    weights_only: bool | None = None,
    **kwargs: Any,
) -> Made:
    """See :meth:`leyden.LightningModule.load_from_checkpoint`."""
    tags = kwargs.pop("tags_csv", None)
    if strict is not None:
        strict = check_bool("strict", strict)
    with preserved_random_state():
        checkpoint = _read(checkpoint_path, map_location, weights_only)
        if tags is not None:
            kept = load_hparams_from_tags_csv(tags)
            checkpoint = {key: value for key, value in checkpoint.items() if "hparams" not in key and "hyper_param" not in key}
            checkpoint |= {"hparams": vars(kept), "hparams_type": "namespace"}
        where = _called(checkpoint_path)
        if "state_dict" not in checkpoint:
            raise CheckpointForeign(
                f"{where} is no checkpoint of a module: it has no 'state_dict'. It holds {_listed(checkpoint)}."
            )
        module: Any = _construct(cls, checkpoint, "", where, hparams_file, kwargs, weights_only)
        own = getattr(module, "_strict_loading", None)
        if own is not None and strict is not None and own != strict:
            raise ConflictingOptions(
                f"strict={strict!r} was passed to load_from_checkpoint, but {cls.__name__}.strict_loading is {own!r}. "
                "Leave one of them out."
            )
        if strict is None:
            strict = bool(getattr(module, "strict_loading", True))
        if hasattr(module, "configure_model"):
            module.configure_model()
        with lost_named(module, checkpoint):
            module.on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        _load_state(module, state, strict, where)
        device = next((value.device for value in state.values() if isinstance(value, torch.Tensor)), None)
        made: Made = module if device is None else module.to(device)
        return made


def load_datamodule_from_checkpoint(
    cls: type[Made],
    checkpoint_path: Path | Any,
    map_location: MapLocation = None,
    hparams_file: Path | None = None,
    weights_only: bool | None = None,
    **kwargs: Any,
) -> Made:
    """See :meth:`leyden.LightningDataModule.load_from_checkpoint`."""
    with preserved_random_state():
        checkpoint = _read(checkpoint_path, map_location, weights_only)
        where = _called(checkpoint_path)
        datamodule: Any = _construct(cls, checkpoint, "datamodule_", where, hparams_file, kwargs, weights_only)
        if type(datamodule).__qualname__ in checkpoint:
            datamodule.load_state_dict(checkpoint[type(datamodule).__qualname__])
        made: Made = datamodule
        return made


def load_hparams_from_file(path: Path) -> dict[str, Any]:
    """Hyper-parameters from a ``.yaml``, ``.yml`` or ``.csv`` file (the latter: two columns, after a line of headings).

    Raises:
        InvalidOption: the name has another ending.
        CheckpointMissing: there is no such file.
        CheckpointForeign: it holds something else.
        MissingPackage: YAML needs PyYAML.
    """
    path = local_path(os.fspath(path))
    ending = os.path.splitext(path)[1].lower()
    if ending not in (".yaml", ".yml", ".csv"):
        raise InvalidOption("hparams_file", path, "a file that ends in .yaml, .yml or .csv")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise CheckpointMissing(f"There is no hparams_file at {path!r}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointForeign(f"hparams_file {path!r} cannot be read as text: {error}.") from error
    if ending == ".csv":
        return _of_rows(path, text)
    try:
        import yaml
    except ImportError as error:
        raise MissingPackage("pyyaml", f"hparams_file={path!r}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CheckpointForeign(f"hparams_file {path!r} holds more than plain values, or is no YAML: {error}.") from error
    if not isinstance(values, dict | None):
        raise CheckpointForeign(f"hparams_file {path!r} holds a {type(values).__name__}, expected names and values.")
    return values or {}


def _of_rows(path: str, text: str) -> dict[str, Any]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except csv.Error as error:
        raise CheckpointForeign(f"hparams_file {path!r} is no table: {error}.") from error
    strange = next((row for row in rows if len(row) != 2), None)
    if strange is not None or not rows:
        found = f"a line of {len(strange)} cells, {','.join(strange)[:60]!r}" if strange else "no line of headings"
        raise CheckpointForeign(f"hparams_file {path!r} holds {found}. Expected key,value and a line for each hyper-parameter.")
    return {name: _value(value) for name, value in rows[1:]}


def load_hparams_from_tags_csv(tags_csv: Path) -> argparse.Namespace:
    """Hyper-parameters out of 0.7.1's ``meta_tags.csv``. Raises as :func:`load_hparams_from_file`."""
    return argparse.Namespace(**load_hparams_from_file(tags_csv), on_gpu=False)


def _read(source: Any, map_location: Any, weights_only: bool | None) -> dict[str, Any]:
    place = _where_it_was if map_location is None else _checked_place(map_location)
    if weights_only is not None:
        weights_only = check_bool("weights_only", weights_only)
    if not hasattr(source, "read") and not isinstance(source, str | os.PathLike):
        raise InvalidType("checkpoint_path", source, "the path or URL of a checkpoint, or an open file")
    if hasattr(source, "read"):
        loaded = bytes_verified(source.read(), _called(source), place, weights_only)
        if not isinstance(loaded, dict):
            raise CheckpointForeign(f"{_called(source)} is no checkpoint: it holds a {type(loaded).__name__}, expected a dict.")
    else:
        loaded = TorchCheckpointIO().load_checkpoint(source, place, weights_only)
    objects = Objects(loaded, weights_only)
    decoded: dict[str, Any] = {key: decode_file(value, _called(source), objects) for key, value in loaded.items()}
    check_parts(decoded, _called(source))
    return decoded


def _checked_place(given: Any) -> Any:
    """``given``, if it says where tensors go: torch would say of another value that the file is broken."""
    expected = "a device such as 'cpu' or 'cuda:0', a dict from devices to devices, or a function, as in torch.load"
    if isinstance(given, str):
        try:
            torch.device(given)
        except RuntimeError:
            raise InvalidOption("map_location", given, expected) from None
    elif not (isinstance(given, torch.device | Mapping) or callable(given)):
        raise InvalidType("map_location", given, expected)
    return given


def _where_it_was(storage: Any, location: str) -> Any:
    """A tensor's place: the device that it was saved from where this machine has it, else the CPU."""
    device = location.split(":")[0]
    if device == "cuda" and torch.cuda.is_available():
        index = int(location.partition(":")[2] or 0)
        return None if index < torch.cuda.device_count() else storage
    if device == "mps" and torch.backends.mps.is_available():
        return None
    return storage


def _called(source: Any) -> str:
    if hasattr(source, "read"):
        return f"the file object {getattr(source, 'name', '')!r}" if hasattr(source, "name") else "the file object"
    text = os.fspath(source)
    return repr(text if is_remote(text) else local_path(text))


def named_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of the constructor of ``cls`` that can be given by name."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in _parameters(cls).items() if parameter.kind in named}


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    init: Any = cls.__init__  # type: ignore[misc]  # a subclass's constructor may differ, and it is this one that is called
    return dict(list(inspect.signature(init).parameters.items())[1:])


def _construct(
    cls: type,
    checkpoint: dict[str, Any],
    prefix: str,
    where: str,
    hparams_file: Path | None,
    given: dict[str, Any],
    weights_only: bool | None,
) -> Any:
    """An object of ``cls``; where a configuration described the saved one, of what that names: the right subclass, its parts."""
    saved = checkpoint.get(f"{prefix}hyper_parameters") if hparams_file is None else load_hparams_from_file(hparams_file)
    if not is_described(saved):
        if not prefix and cls.__module__ == "leyden.module":
            raise MissingModel(f"{where} does not say which class its module is of: call load_from_checkpoint of that class.")
        return cls(**_arguments(cls, checkpoint, prefix, where, hparams_file, given))
    assert isinstance(saved, Mapping)
    trusted = weights_only is False
    cls = class_described(cls, saved, where, trusted)
    arguments = _arguments(cls, checkpoint, prefix, where, hparams_file, given)
    named = named_parameters(cls)
    described = [name for name in arguments if name in saved and name in named and name not in given]
    values = {name: arguments.pop(name) for name in described}
    return made_from_file(cls, values, arguments, where, trusted, names_class=CLASS_KEY in saved)


def _arguments(
    cls: type, checkpoint: dict[str, Any], prefix: str, where: str, hparams_file: Path | None, given: dict[str, Any]
) -> dict[str, Any]:
    """What the constructor of ``cls`` is called with. Values come from the file; nothing that the file names is called."""
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in _parameters(cls).values())
    named = named_parameters(cls)
    ours = (checkpoint.get("leyden") or {}).get(f"{prefix}init_arguments")
    recorded: dict[str, Any] = dict(decode(ours)) if isinstance(ours, dict) else {}
    if not takes_any:
        for name in given:
            if name not in named:
                known = [*named, *arguments_of(cls.load_from_checkpoint)]  # type: ignore[attr-defined]  # both kinds have it
                raise unknown_argument(f"{cls.__name__}.load_from_checkpoint", name, known)
    with usable(where, f"{prefix}hyper_parameters"):
        saved = _saved(checkpoint, prefix, named, recorded)
    if hparams_file is not None:
        saved = load_hparams_from_file(hparams_file)
    # Where the constructor's own call is known, what else was saved is no argument of it.
    if ours is not None and hparams_file is None:
        saved = {name: value for name, value in saved.items() if name in recorded or name in named}
    arguments = {**recorded, **saved, **given}
    if not takes_any:
        arguments = {name: value for name, value in arguments.items() if name in named}
    arguments.pop("_instantiator", None)
    arguments.pop("_class_path", None)
    lost = {name: value for name, value in arguments.items() if isinstance(value, Unwritable)}
    _take_defaults(cls, [name for name in lost if name not in saved], named, lost, where)
    arguments = {name: value for name, value in arguments.items() if name in lost or not isinstance(value, Unwritable)}
    absent = [name for name, parameter in named.items() if parameter.default is inspect.Parameter.empty and name not in arguments]
    if lost or absent:
        said = [repr(name) for name in absent]
        said += [f"{name!r} ({value.said})" for name, value in lost.items()]
        call = ", ".join(f"{name}=..." for name in [*absent, *lost])
        waiting = any(value.waits for value in lost.values())
        raise MissingHyperparameter(
            f"{cls.__name__} cannot be made from {where}: the file does not hold the constructor's {', '.join(said)}. "
            f"Pass what is missing: {cls.__name__}.load_from_checkpoint(path, {call}){TRUSTED if waiting else ''}."
        )
    return arguments


def _take_defaults(
    cls: type, names: list[str], parameters: Mapping[str, inspect.Parameter], lost: dict[str, Unwritable], where: str
) -> None:
    """Of what nobody asked to keep, the constructor's default is taken, where it has one, and said."""
    for name in names:
        if name in parameters and parameters[name].default is not inspect.Parameter.empty:
            warn_user(
                f"{cls.__name__} was made with a {lost.pop(name).type} as {name!r}, which {where} cannot hold: the default, "
                f"{parameters[name].default!r}, is taken. Pass it: {cls.__name__}.load_from_checkpoint(path, {name}=...).",
                LeydenWarning,
            )


def _saved(checkpoint: dict[str, Any], prefix: str, named: Mapping[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """The saved hyper-parameters as constructor arguments. Knows the keys of older Lightnings."""
    values: dict[str, Any] = {}
    if not prefix:
        old = checkpoint.get("hparams")
        if old is not None and "hparams" in named:  # 0.7: the whole went in as one argument
            given = _names_in(old)
            values["hparams"] = argparse.Namespace(**given) if _type_in(checkpoint) == "namespace" else given
        elif old is not None:
            values.update(_names_in(old))
        values.update(_names_in(checkpoint.get("module_arguments") or {}))
    saved = checkpoint.get(f"{prefix}hyper_parameters")
    if saved is None:
        return values
    name = checkpoint.get(f"{prefix}hparams_name")
    if name is not None and name != "kwargs" and name in named:
        if checkpoint.get(f"{prefix}hparams_type") == "DictConfig":
            values[name] = _as_config(_names_in(saved))
        else:
            values[name] = _as_it_was(recorded.get(name), _names_in(saved), _type_in(checkpoint))
    else:
        values.update(_names_in(saved))
    return values


def _names_in(saved: Any) -> dict[str, Any]:
    if isinstance(saved, Mapping):
        return {str(key): value for key, value in saved.items()}
    return dict(vars(saved))


def _type_in(checkpoint: Mapping[str, Any]) -> str:
    """``"namespace"`` or ``"dict"``, where the hyper-parameters were assigned as such."""
    return str(checkpoint.get("hparams_type", "")).lower()


def _as_it_was(original: Any, values: dict[str, Any], kind: str = "") -> Any:
    """``values`` in the form in which the constructor was once given them; attributes and items both work where it is unknown."""
    if isinstance(original, argparse.Namespace | types.SimpleNamespace):
        return type(original)(**values)
    if dataclasses.is_dataclass(original) and not isinstance(original, type):
        for field in dataclasses.fields(original):
            if field.name in values:
                object.__setattr__(original, field.name, values[field.name])
        return original
    if kind == "namespace":
        return argparse.Namespace(**values)
    return values if kind == "dict" else AttributeDict(values)


def _as_config(values: dict[str, Any]) -> Any:
    """An OmegaConf object, for a run that had one; where the package is not installed, attributes and items both work."""
    try:
        from omegaconf import OmegaConf
    except ImportError:
        return AttributeDict(values)
    return OmegaConf.create(values)


def _load_state(module: Any, state: dict[str, Any], strict: bool, where: str) -> None:
    name = type(module).__name__
    try:
        keys = module.load_state_dict(state, strict=strict)
    except RuntimeError as error:
        advice = " With strict=False, what is missing or unexpected is left as it is." if strict else ""
        raise CheckpointMismatch(f"The weights in {where} do not fit {name}. {error}.{advice}") from error
    if strict or keys is None:
        return
    parts = []
    if keys.missing_keys:
        parts.append(f"not in the file, so left as they were made: {', '.join(keys.missing_keys)}")
    if keys.unexpected_keys:
        parts.append(f"in the file, but not in the module: {', '.join(keys.unexpected_keys)}")
    if parts:
        warn_user(f"{where} was loaded into {name} in part. Weights {'; weights '.join(parts)}.", LeydenWarning)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _listed(checkpoint: dict[str, Any]) -> str:
    names = [repr(key) for key in list(checkpoint)[:6]]
    return ", ".join(names) + (" and more" if len(checkpoint) > 6 else "") if names else "nothing"
