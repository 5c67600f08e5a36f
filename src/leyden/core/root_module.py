"""The module, where 0.5 had it."""

from leyden.module import LightningModule

__all__ = ["LightningModule"]
