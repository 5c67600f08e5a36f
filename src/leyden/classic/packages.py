"""What 1.x asked of installed packages."""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from packaging.version import Version

from leyden.errors import MissingPackage, UnknownName, did_you_mean

IS_WINDOWS = sys.platform == "win32"


def module_available(module_path: str) -> bool:
    """Whether a module, with its packages above it, can be found. Of them only the packages are imported."""
    try:
        return find_spec(module_path) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def package_available(package_name: str) -> bool:
    """Whether a package can be found."""
    return module_available(package_name)


def compare_version(package: str, op: Callable[[Any, Any], bool], version: str, use_base_version: bool = False) -> bool:
    """Whether ``op(installed version, version)`` holds; false for a package that is not installed."""
    try:
        installed = Version(importlib.import_module(package).__version__)
    except (ImportError, AttributeError):
        return False
    return op(Version(installed.base_version) if use_base_version else installed, Version(version))


def get_torchvision_model(model_name: str, **kwargs: Any) -> Any:
    """``torchvision.models.model_name(**kwargs)``. Raises :class:`MissingPackage`, and :class:`UnknownName` for no such model."""
    if not package_available("torchvision"):
        raise MissingPackage("torchvision", "get_torchvision_model")
    models = importlib.import_module("torchvision.models")
    made = getattr(models, model_name, None)
    if made is None:
        raise UnknownName(f"torchvision has no model {model_name!r}.{did_you_mean(model_name, dir(models))}")
    return made(**kwargs)


def flag(name: str) -> bool:
    """``_RICH_AVAILABLE``: whether the package of that name is there; ``_TORCH_GREATER_EQUAL_1_10``: whether in that version.

    ``_NATIVE_AMP_AVAILABLE`` is true: mixed precision is PyTorch's own. Raises ``AttributeError`` for other names.
    """
    package, compared, least = name.removeprefix("_").partition("_GREATER_EQUAL_")
    if compared and package == package.upper() and least.replace("_", "").isdigit():
        return compare_version(package.lower(), operator.ge, least.replace("_", "."), use_base_version=True)
    words = name.removeprefix("_").removesuffix("_AVAILABLE")
    if not name.startswith("_") or not name.endswith("_AVAILABLE") or not words or words != words.upper():
        raise AttributeError(f"There is no {name!r} here: it has names such as _RICH_AVAILABLE.")
    return words == "NATIVE_AMP" or package_available(words.lower())
