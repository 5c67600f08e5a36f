"""``leyden.pytorch`` has what ``leyden`` has: programs in which every ``lightning`` became ``leyden`` run as they are.

``import leyden.pytorch as pl`` and ``from leyden.pytorch.callbacks import EarlyStopping`` give the classes of ``import leyden``
and the very module ``leyden.callbacks``: nothing is there twice.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import leyden
from leyden import *  # noqa: F403

_HERE = f"{__name__}."


class _SameModules(MetaPathFinder, Loader):
    """Answers an import of ``leyden.pytorch.X`` with the module ``leyden.X``."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not fullname.startswith(_HERE):
            return None
        module = importlib.import_module(f"leyden.{fullname.removeprefix(_HERE)}")
        spec = ModuleSpec(fullname, self)
        spec.loader_state = (module, module.__spec__)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: ModuleType = spec.loader_state[0]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already; its own spec, in whose place the import system has put ours, is put back."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state[1]


def __getattr__(name: str) -> Any:
    return getattr(leyden, name)


def __dir__() -> list[str]:
    return dir(leyden)


__all__ = leyden.__all__
sys.modules[__name__].__path__.clear()  # its modules have their files elsewhere
sys.meta_path.insert(0, _SameModules())
