"""The parser of the command line: arguments of our classes, of optimizers and of schedulers; a wrong word names the right one."""

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch.optim import Optimizer

from leyden.callback import Callback
from leyden.cli.installed import ArgumentParser, Namespace, jsonargparse, require_jsonargparse
from leyden.cli.lightning_paths import of_argument, of_text, reading, translate_what_is_loaded, translated
from leyden.cli.makers import LRSchedulerTypeTuple
from leyden.cli.nearest import nearest, subparsers
from leyden.cli.read_files import file_of, reading_file, reading_files, refuse_wrong_parts, remember_file
from leyden.datamodule import LightningDataModule
from leyden.errors import InvalidType, LeydenError
from leyden.hparams_described import what_is_any_is_made
from leyden.module import LightningModule
from leyden.spelling import arguments_of, unknown_argument
from leyden.trainer.trainer import Trainer

ArgsType = list[str] | dict[str, Any] | Namespace | None
"""What a command line may be given as, from Python: its words, or a configuration."""

_NO_KEYS = "Unexpected config: "  # how jsonargparse begins where a file holds no mapping
_LONGEST = 80  # characters of a file that are shown
_KINDS = (Trainer, LightningModule, LightningDataModule, Callback)


def words_of_command() -> list[str]:
    """What stands on the command line after the program. In a notebook nothing does: the words are those of its kernel."""
    return [] if "kernel_launcher" in os.path.basename(sys.argv[0]) else sys.argv[1:]


class LightningArgumentParser(ArgumentParser):
    """jsonargparse's parser, that knows how to add the arguments of our classes.

    Args:
        *args: as :class:`argparse.ArgumentParser` takes them.
        description: what ``--help`` says first.
        env_prefix: how the names of environment variables begin.
        default_env: whether environment variables are read.
        **kwargs: as ``jsonargparse.ArgumentParser`` takes them.

    Raises:
        MissingPackage: jsonargparse is not installed.
    """

    def __init__(
        self,
        *args: Any,
        description: str = "Train, validate, test and predict from the command line.",
        env_prefix: str = "PL",
        default_env: bool = False,
        **kwargs: Any,
    ) -> None:
        require_jsonargparse()
        _register_types()
        try:
            super().__init__(*args, description=description, env_prefix=env_prefix, default_env=default_env, **kwargs)
        except TypeError as error:
            known = [
                name for kind in type(self).__mro__ if "__init__" in vars(kind) for name in arguments_of(vars(kind)["__init__"])
            ]
            for name in kwargs:
                if f"argument {name!r}" in str(error) and name not in known:
                    raise unknown_argument(type(self).__name__, name, known) from error
            raise
        self.callback_keys: list[str] = []
        self._optimizers: dict[str, tuple[Any, str]] = {}
        self._lr_schedulers: dict[str, tuple[Any, str]] = {}

    def add_lightning_class_args(
        self,
        lightning_class: type | Callable[..., Any],
        nested_key: str,
        subclass_mode: bool = False,
        required: bool = True,
    ) -> list[str]:
        """Add the arguments of a Trainer, module, datamodule or callback under ``nested_key``.

        Args:
            lightning_class: the class, or a function that returns an object of one and says so in its annotation.
            nested_key: where they stand.
            subclass_mode: the class itself is an argument: any subclass of this one.
            required: whether one must be given, in ``subclass_mode``.

        Returns:
            The names that were added.
        """
        given: Any = lightning_class
        if callable(given) and not isinstance(given, type):
            try:
                given = jsonargparse.class_from_function(given)
            except (ValueError, TypeError) as error:
                name = getattr(lightning_class, "__name__", repr(lightning_class))
                raise InvalidType(
                    "lightning_class", lightning_class, "a function whose annotation says what it returns", f"{name}: {error}"
                ) from error
        if not (isinstance(given, type) and issubclass(given, _KINDS)):
            expected = "a subclass of Trainer, LightningModule, LightningDataModule or Callback, or a function that returns one"
            raise InvalidType("lightning_class", lightning_class, expected)
        if issubclass(given, Callback):
            self.callback_keys.append(nested_key)
        added: list[str]
        if subclass_mode:
            added = self.add_subclass_arguments(given, nested_key, fail_untyped=False, required=required)
        else:
            added = self.add_class_arguments(
                given,
                nested_key,
                fail_untyped=False,
                instantiate=not issubclass(given, Trainer),
                sub_configs=True,
            )
        return added

    def add_optimizer_args(
        self,
        optimizer_class: type[Optimizer] | tuple[type[Optimizer], ...] = (Optimizer,),
        nested_key: str = "optimizer",
        link_to: str = "AUTOMATIC",
    ) -> None:
        """Add the arguments of an optimizer under ``nested_key``.

        Args:
            optimizer_class: one class, whose arguments these are; a tuple: any subclass of these.
            nested_key: where they stand.
            link_to: the argument that gets them; ``"AUTOMATIC"``: they become the module's ``configure_optimizers``.
        """
        self.leyden_add_class_of(optimizer_class, nested_key, Optimizer, "params", "optimizer_class")
        self._optimizers[nested_key] = (optimizer_class, link_to)

    def add_lr_scheduler_args(
        self,
        lr_scheduler_class: Any = LRSchedulerTypeTuple,
        nested_key: str = "lr_scheduler",
        link_to: str = "AUTOMATIC",
    ) -> None:
        """Add the arguments of a learning-rate scheduler under ``nested_key``. As :meth:`add_optimizer_args`."""
        self.leyden_add_class_of(lr_scheduler_class, nested_key, LRSchedulerTypeTuple, "optimizer", "lr_scheduler_class")
        self._lr_schedulers[nested_key] = (lr_scheduler_class, link_to)

    def leyden_add_class_of(self, given: Any, nested_key: str, base: Any, first: str, name: str) -> None:
        """Add arguments of a class, or of any subclass of several, without its first one, which is not known yet."""
        classes = given if isinstance(given, tuple) else (given,)
        if not classes or not all(isinstance(each, type) and issubclass(each, base) for each in classes):
            kinds = " or ".join(each.__name__ for each in (base if isinstance(base, tuple) else (base,)))
            raise InvalidType(name, given, f"a subclass of {kinds}, or a tuple of some")
        options: dict[str, Any] = {"instantiate": False, "fail_untyped": False, "skip": {first}}
        if isinstance(given, tuple):
            self.add_subclass_arguments(given, nested_key, **options)
        else:
            self.add_class_arguments(given, nested_key, sub_configs=True, **options)

    # -- reading: Lightning's class paths mean ours
    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, from the words of a command line. Lightning's class paths mean our classes of the same names."""
        words = words_of_command() if args is None else args
        with self.leyden_reading():
            if isinstance(words, list | tuple):
                words = [of_argument(word) if isinstance(word, str) else word for word in words]
            return super().parse_args(words, *rest, **kwargs)

    def parse_object(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, from a dict or a Namespace."""
        with self.leyden_reading():
            given = {name: _translated_mapping(each) for name, each in kwargs.items()}
            return super().parse_object(*map(_translated_mapping, args), **given)

    def parse_string(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, from the text of a configuration file."""
        with self.leyden_reading():
            return super().parse_string(*args, **kwargs)

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, from a configuration file, which is named where something is wrong with it."""
        with reading_file(path), self.leyden_reading():
            read = super().parse_path(path, *args, **kwargs)
        remember_file(path, read.keys())
        return read

    def _apply_actions(self, *args: Any, **kwargs: Any) -> Any:
        applied = super()._apply_actions(*args, **kwargs)
        for name in subparsers(self):
            if kwargs.get("parent_key") is None and name in applied and not isinstance(applied[name], Namespace):
                raise TypeError(f"{name}: the arguments of {name} by name are expected, and not {applied[name]!r}.")
        return applied

    def _check_value_key(self, action: Any, value: Any, key: str, *args: Any, **kwargs: Any) -> Any:
        checked = super()._check_value_key(action, value, key, *args, **kwargs)
        if type(action).__name__ == "_ActionConfigLoad" and not isinstance(checked, dict | Namespace):  # it takes anything
            owner = getattr(getattr(action, "basetype", None), "__name__", "class")
            raise TypeError(f"{key}: the {owner}'s arguments by name are expected, and not {checked!r}.")
        return checked

    def parse_env(self, *args: Any, **kwargs: Any) -> Any:
        """As jsonargparse's, from environment variables."""
        with self.leyden_reading():
            return super().parse_env(*args, **kwargs)

    def _load_env_vars(self, env: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._load_env_vars({name: of_text(text) for name, text in env.items()}, *args, **kwargs)

    @contextlib.contextmanager
    def leyden_reading(self) -> Iterator[None]:
        translate_what_is_loaded(self.parser_mode)
        inside, before = reading.get(), reading.set(True)
        try:
            with contextlib.nullcontext() if inside else reading_files():
                yield
        except LeydenError as error:
            self.error(str(error), error)
        except UnicodeDecodeError as error:
            self.error(f"a configuration file has to be a text file. {error}", error)
        finally:
            reading.reset(before)

    # -- writing and making, by the words of older jsonargparse that programs use
    def dump(self, *args: Any, **kwargs: Any) -> str:
        """As jsonargparse's: the text of a configuration. ``skip_none=False`` keeps what is ``None``."""
        text: str = super().dump(*args, **_in_todays_words(kwargs))
        return text

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As jsonargparse's: write a configuration to a file, or to several."""
        super().save(*args, **_in_todays_words(kwargs))

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """The objects that a configuration describes."""
        return self.leyden_made(cfg, (), **kwargs)

    def leyden_made(self, config: Any, instantiators: Sequence[tuple[Callable[..., Any], type, bool]], **kwargs: Any) -> Any:
        """The objects that ``config`` describes. Each of ``instantiators`` makes those of a class, or of its subclasses too."""
        with what_is_any_is_made(), _our_errors():
            if not hasattr(ArgumentParser, "instantiate"):
                for function, kind, subclasses in instantiators:
                    self.add_instantiator(function, kind, subclasses=subclasses)
                return super().instantiate_classes(config, **kwargs)
            if isinstance(config, dict):
                config = self._apply_actions(config)
            if instantiators:
                kwargs["instantiators"] = list(instantiators)
            return self.instantiate(config, **kwargs)

    # -- errors
    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong, with the nearest right word where one is wrong, and exit with code 2 (or raise, as asked)."""
        said = "" if "Did you mean" in message else nearest(self, message).strip()
        if message.startswith(_NO_KEYS):
            found = message.removeprefix(_NO_KEYS).strip()
            message = f"keys and their values are expected, and not {found[:_LONGEST]!r}." if found else "it is empty."
        file = file_of(message)
        message = message if file is None or message.startswith(file) else f"{file}: {message}"
        super().error(message if not said else f"{message.rstrip()}\n{said}", ex)


def _register_types() -> None:
    """Tell jsonargparse of two types how they are read and written. It takes a path for anything, and cannot write a device."""
    register = importlib.import_module("jsonargparse.typing").register_type
    register(os.PathLike, str, _path)
    register(torch.device, str, torch.device, (ValueError, TypeError, AttributeError, RuntimeError))


def _path(value: Any) -> str:
    if value is None:  # jsonargparse makes a path of any value, of ``null`` the path "None"
        raise ValueError("None is no path")
    return str(value)


@contextlib.contextmanager
def _our_errors() -> Iterator[None]:
    """An error of ours that a constructor raised comes out as it is, and not as a list of the types that a value may have."""
    try:
        yield
    except ValueError as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, LeydenError):
                raise cause from None
            cause = cause.__cause__
        raise


def _translated_mapping(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    refuse_wrong_parts(value)
    return translated(value)


def _in_todays_words(given: dict[str, Any]) -> dict[str, Any]:
    if hasattr(jsonargparse, "Unset"):  # since then, what has no value is called unset
        return {"skip_unset" if name == "skip_none" else name: value for name, value in given.items()}
    return {"skip_none" if name == "skip_unset" else name: value for name, value in given.items()}
