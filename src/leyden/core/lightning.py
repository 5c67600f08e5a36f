"""The module, where older versions put it."""

from leyden.classic.loaders import data_loader
from leyden.hparams_construct import load_hparams_from_tags_csv
from leyden.module import LightningModule

__all__ = ["LightningModule", "data_loader", "load_hparams_from_tags_csv"]
