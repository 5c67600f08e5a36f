"""A program for the command line: the arguments of module, datamodule and trainer are options, or stand in a file.

    python main.py fit --config run.yaml
    python main.py fit --config run.yaml --model.encoder.width 128 --optimizer SGD --optimizer.lr 0.1
    python main.py test --config run.yaml --ckpt_path best.ckpt
    python main.py fit --help

Needs scikit-learn, jsonargparse and PyYAML: pip install 'leyden[examples,cli]'.
"""

from __future__ import annotations

from data import Digits
from model import Classifier

from leyden.cli import LightningArgumentParser, LightningCLI


class DigitsCLI(LightningCLI):
    """The module learns from the data how many classes there are."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("data.classes", "model.classes", apply_on="instantiate")

    def after_fit(self) -> None:
        self.trainer.test(ckpt_path="best", datamodule=self.datamodule)


if __name__ == "__main__":
    DigitsCLI(Classifier, Digits, seed_everything_default=0)
