"""``lightning_utilities`` has a ``rank_zero_only`` of its own, which raises until somebody tells it this process's rank."""

from __future__ import annotations

import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import ModuleType
from typing import Protocol

_PACKAGE, _MODULE = "lightning_utilities", "lightning_utilities.core.rank_zero"


class Ranked(Protocol):
    @property
    def rank(self) -> int: ...


def tell_elsewhere(own: Ranked, *, anew: bool = False) -> None:
    """Give the other package our rank, where it is loaded and nobody has told it one (``anew``: also where somebody has)."""
    module = sys.modules.get(_MODULE)
    if module is not None:
        _tell(module, own, anew)


def tell_elsewhere_once_loaded(own: Ranked) -> None:
    """:func:`tell_elsewhere` now, or as soon as the other package's module is loaded by whoever wants it.

    It is not imported for that, and nothing looks at other imports: the one folder that holds the module gets a finder of ours.
    """
    if _MODULE in sys.modules:
        tell_elsewhere(own)
        return
    found = PathFinder.find_spec(_PACKAGE)

    class Telling(SourceFileLoader):
        def exec_module(self, module: ModuleType) -> None:
            super().exec_module(module)
            if module.__name__ == _MODULE:
                _tell(module, own, anew=False)

    for folder in (found and found.submodule_search_locations) or ():
        folder = os.path.join(folder, "core")
        sys.path_importer_cache[folder] = FileFinder(
            folder,
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (Telling, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )


def _tell(module: ModuleType, own: Ranked, anew: bool) -> None:
    theirs = getattr(module, "rank_zero_only", None)
    if theirs is not None and (anew or getattr(theirs, "rank", None) is None):
        theirs.rank = own.rank
