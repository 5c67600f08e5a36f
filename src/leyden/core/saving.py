"""Saving, where Lightning puts it."""

from leyden.checkpoint.filesystem import get_filesystem
from leyden.hparams_construct import load_hparams_from_tags_csv
from leyden.module import LightningModule as ModelIO

__all__ = ["ModelIO", "get_filesystem", "load_hparams_from_tags_csv"]
