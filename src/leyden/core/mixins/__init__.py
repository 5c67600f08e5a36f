"""Mixins, where Lightning puts them."""

from leyden.hook_mixins import DeviceDtypeModuleMixin
from leyden.hparams import HyperparametersMixin

__all__ = ["DeviceDtypeModuleMixin", "HyperparametersMixin"]
