"""Saving, where Lightning puts it."""

from leyden.checkpoint.filesystem import get_filesystem
from leyden.hparams_construct import load_hparams_from_tags_csv

__all__ = ["get_filesystem", "load_hparams_from_tags_csv"]
