"""The module, where Lightning puts it."""

from leyden.module import LightningModule

__all__ = ["LightningModule"]
