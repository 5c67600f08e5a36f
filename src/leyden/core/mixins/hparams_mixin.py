"""The hyper-parameters' mixin, where Lightning puts it."""

from leyden.hparams import HyperparametersMixin

__all__ = ["HyperparametersMixin"]
