"""Saving, where Lightning puts it."""

from leyden.checkpoint.filesystem import get_filesystem
from leyden.hparams_construct import load_hparams_from_file as load_hparams_from_tags_csv
from leyden.loggers.hparams_files import (
    convert,
    load_hparams_from_yaml,
    save_hparams_to_tags_csv,
    save_hparams_to_yaml,
    update_hparams,
)
from leyden.module import LightningModule as ModelIO

__all__ = [
    "ModelIO",
    "convert",
    "get_filesystem",
    "load_hparams_from_tags_csv",
    "load_hparams_from_yaml",
    "save_hparams_to_tags_csv",
    "save_hparams_to_yaml",
    "update_hparams",
]
