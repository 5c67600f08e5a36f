"""What a module does about files, where 0.6 and 0.7 had it: a part of the module itself today."""

from leyden.module import LightningModule as ModelIO

__all__ = ["ModelIO"]
