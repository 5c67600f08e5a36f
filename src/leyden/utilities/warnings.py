"""Warnings, where Lightning puts them."""

from leyden.errors import PossibleUserWarning, disable_possible_user_warnings

__all__ = ["PossibleUserWarning", "disable_possible_user_warnings"]
