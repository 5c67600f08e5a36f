"""The module, where older versions put it."""

from leyden.hparams_construct import load_hparams_from_tags_csv
from leyden.module import LightningModule

__all__ = ["LightningModule", "load_hparams_from_tags_csv"]
