"""Saving, where Lightning puts it."""

from leyden.checkpoint.construct import load_hparams_from_tags_csv
from leyden.checkpoint.filesystem import get_filesystem

__all__ = ["get_filesystem", "load_hparams_from_tags_csv"]
