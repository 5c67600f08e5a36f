"""``Trainer.add_argparse_args`` and ``from_argparse_args``: the Trainer's keywords on a command line."""

from __future__ import annotations

import functools
import inspect
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any, get_args

from leyden.checked import read_word
from leyden.classic.arguments import TRAINER, defaults_of, same
from leyden.distributed.rank_zero import rank_zero_info
from leyden.errors import InvalidType


def add_argparse_args(trainer_class: type, parser: Any) -> ArgumentParser:
    """Add an option for every keyword of the Trainer, the old names among them, but for those that the parser has.

    The options are added to ``parser`` itself, which is returned.
    """
    if not isinstance(parser, ArgumentParser):
        raise InvalidType("parent_parser", parser, "an argparse.ArgumentParser")
    group = parser.add_argument_group(trainer_class.__name__)
    taken = set(parser._option_string_actions)
    for name, default in _offered(trainer_class).items():
        option = f"--{name}"
        if option in taken:
            continue
        what = f"now {TRAINER[name][0].replace('%', '%%')}" if name in TRAINER else f"default: {default!r}".replace("%", "%%")
        if isinstance(default, bool):
            group.add_argument(option, default=default, nargs="?", const=True, type=read_word, help=what)
        else:
            group.add_argument(option, default=default, type=read_word, help=what)
    return parser


def keywords_from(trainer_class: type, args: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The Trainer's keywords that stand in ``args``, where they are not the default; ``given`` overrides them."""
    if isinstance(args, ArgumentParser):
        args = args.parse_args()
    if not isinstance(args, Namespace | dict):
        raise InvalidType("args", args, "what ArgumentParser.parse_args() returned")
    found = dict(args) if isinstance(args, dict) else vars(args)
    defaults = _offered(trainer_class)
    changed = {name: value for name, value in found.items() if name in defaults and not same(value, defaults[name])}
    return {**changed, **given}


def with_environment(init: Callable[..., None]) -> Callable[..., None]:
    """Decorates the Trainer's constructor: what it is not given is taken from ``PL_TRAINER_MAX_EPOCHS`` and the like."""
    kinds = {name: each.kind for name, each in inspect.signature(init).parameters.items()}
    variables = {f"PL_TRAINER_{name.upper()}": name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY}

    @functools.wraps(init)
    def reading(self: Any, *args: Any, **kwargs: Any) -> None:
        for variable, name in variables.items():
            if name not in kwargs and variable in os.environ:
                kwargs[name] = read_word(os.environ[variable])
                rank_zero_info(f"{name}={kwargs[name]!r} is the environment's ({variable}).")
        init(self, *args, **kwargs)

    return reading


def parse_argparser(cls: type, arg_parser: ArgumentParser | Namespace) -> Namespace:
    """What stands on the command line; ``arg_parser`` itself where that has been read already."""
    return arg_parser.parse_args() if isinstance(arg_parser, ArgumentParser) else arg_parser


def parse_env_variables(cls: type, template: str = "PL_%(cls_name)s_%(cls_argument)s") -> Namespace:
    """The arguments of ``cls`` that stand in the environment, as ``PL_TRAINER_DEVICES``. A class of another name has others."""
    found = {}
    for name in inspect.signature(cls).parameters:
        word = os.environ.get(template % {"cls_name": cls.__name__.upper(), "cls_argument": name.upper()})
        if word:
            found[name] = read_word(word)
    return Namespace(**found)


def get_init_arguments_and_types(cls: type) -> list[tuple[str, tuple[Any, ...], Any]]:
    """Each argument of ``cls``: its name, the types that its annotation names, and its default."""
    parameters = inspect.signature(cls).parameters.values()
    return [(each.name, get_args(each.annotation) or (each.annotation,), each.default) for each in parameters]


def _offered(trainer_class: type) -> dict[str, Any]:
    """Every keyword with its default, the old names too."""
    return {**dict.fromkeys(TRAINER), **defaults_of(trainer_class)}
