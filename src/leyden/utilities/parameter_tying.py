"""Shared parameters, where Lightning puts them."""

from leyden.inspect.shared_parameters import find_shared_parameters, set_shared_parameters

__all__ = ["find_shared_parameters", "set_shared_parameters"]
