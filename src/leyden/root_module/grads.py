"""Norms of gradients, where 0.5 had them: a part of the module itself today."""

from leyden.module import LightningModule as GradInformation

__all__ = ["GradInformation"]
