"""The command line: ``LightningCLI`` and its parser, on jsonargparse; each name is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from leyden.not_offered import absent

if TYPE_CHECKING:
    from leyden.cli.command_line import LightningCLI
    from leyden.cli.makers import (
        LRSchedulerCallable,
        LRSchedulerTypeTuple,
        LRSchedulerTypeUnion,
        OptimizerCallable,
        ReduceLROnPlateau,
        instantiate_class,
    )
    from leyden.cli.parser import ArgsType, LightningArgumentParser
    from leyden.cli.save_config import SaveConfigCallback
    from leyden.hparams_described import ModuleType, instantiate_module

__all__ = [
    "ArgsType",
    "LRSchedulerCallable",
    "LRSchedulerTypeTuple",
    "LRSchedulerTypeUnion",
    "LightningArgumentParser",
    "LightningCLI",
    "ModuleType",
    "OptimizerCallable",
    "ReduceLROnPlateau",
    "SaveConfigCallback",
    "instantiate_class",
    "instantiate_module",
]

_HOME = {
    "ArgsType": "leyden.cli.parser",
    "LRSchedulerCallable": "leyden.cli.makers",
    "LRSchedulerTypeTuple": "leyden.cli.makers",
    "LRSchedulerTypeUnion": "leyden.cli.makers",
    "LightningArgumentParser": "leyden.cli.parser",
    "LightningCLI": "leyden.cli.command_line",
    "ModuleType": "leyden.hparams_described",
    "OptimizerCallable": "leyden.cli.makers",
    "ReduceLROnPlateau": "leyden.cli.makers",
    "SaveConfigCallback": "leyden.cli.save_config",
    "instantiate_class": "leyden.cli.makers",
    "instantiate_module": "leyden.hparams_described",
}
_ON_HAND = ("ActionConfigFile", "ArgumentParser", "Namespace", "class_from_function", "register_unresolvable_import_paths")
"""Of jsonargparse: programs take them from here."""


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ON_HAND:
        from leyden.cli.installed import jsonargparse

        return getattr(jsonargparse, name)
    if name.endswith("_REGISTRY"):  # 1.7 had them here
        older = importlib.import_module("leyden.cli.older")
        if hasattr(older, name):
            return getattr(older, name)
    return absent(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
