"""jsonargparse, or what says how to install it as soon as something is made of it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, NoReturn

from leyden.errors import MissingPackage


def require_jsonargparse() -> None:
    """Raises :class:`MissingPackage` where the command line's packages are not installed."""
    for package in ("jsonargparse", "docstring_parser", "typeshed_client", "yaml"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage("pyyaml" if package == "yaml" else package, "leyden.cli", extra="cli")


class _Missing:
    """A class of jsonargparse's, where that is not installed: it can be subclassed and asked for, but not made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise MissingPackage("jsonargparse", "leyden.cli", extra="cli")


class _Stand:
    """Stands for the package."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Missing,), {"__module__": __name__})


def _jsonargparse() -> Any:
    try:
        return importlib.import_module("jsonargparse")
    except ImportError:
        return _Stand()


jsonargparse = _jsonargparse()
ActionConfigFile: Any = jsonargparse.ActionConfigFile
if TYPE_CHECKING:
    from jsonargparse import ArgumentParser as ArgumentParser
    from jsonargparse import Namespace as Namespace
else:
    ArgumentParser = jsonargparse.ArgumentParser
    Namespace = jsonargparse.Namespace
