"""Whether a method is overridden, as 1.0 to 1.9 asked."""

from __future__ import annotations

from typing import Any

from leyden.datamodule import LightningDataModule
from leyden.hooks import overrides
from leyden.module import LightningModule


def is_overridden(method_name: str, instance: Any = None, parent: type | None = None) -> bool:
    """Whether ``instance`` brings its own ``method_name``, other than that of ``parent`` (default: the base of its kind)."""
    base = parent or (LightningDataModule if isinstance(instance, LightningDataModule) else LightningModule)
    hook = getattr(base, method_name, None)
    return instance is not None and hook is not None and overrides(instance, hook)
