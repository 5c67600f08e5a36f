"""The datamodule, where Lightning puts it."""

from leyden.datamodule import LightningDataModule

__all__ = ["LightningDataModule"]
