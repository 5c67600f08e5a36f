"""The 2020 dialect, and 1.x's: old argument names, dict returns, ``*_epoch_end(outputs)``; adapted at the door."""

from leyden.classic.arguments import FORMER_DEFAULTS, TRAINER, Classic, defaults_of, translate
from leyden.classic.attributes import old_attribute
from leyden.classic.command_line import add_argparse_args, keywords_from, with_environment
from leyden.classic.loaders import data_loader
from leyden.classic.modules import CALLBACK_NAMES, MODULE_NAMES, RESEMBLED, Adapter, adapt, passed_over
from leyden.classic.old_hooks import tell_before_setup, tell_init
from leyden.classic.verbs import evaluation_loaders, fit_loaders, test_loaders

__all__ = [
    "CALLBACK_NAMES",
    "FORMER_DEFAULTS",
    "MODULE_NAMES",
    "RESEMBLED",
    "TRAINER",
    "Adapter",
    "Classic",
    "adapt",
    "add_argparse_args",
    "data_loader",
    "defaults_of",
    "evaluation_loaders",
    "fit_loaders",
    "keywords_from",
    "old_attribute",
    "passed_over",
    "tell_before_setup",
    "tell_init",
    "test_loaders",
    "translate",
    "with_environment",
]
