"""Norms of gradients, where 0.6 and 0.7 had them: a part of the module itself today."""

from leyden.module import LightningModule as GradInformation

__all__ = ["GradInformation"]
