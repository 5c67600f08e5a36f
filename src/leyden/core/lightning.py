"""The module, where older versions put it."""

from leyden.module import LightningModule

__all__ = ["LightningModule"]
