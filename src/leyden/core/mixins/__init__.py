"""Mixins, where Lightning puts them."""

from leyden.hparams import HyperparametersMixin

__all__ = ["HyperparametersMixin"]
