"""Warnings, where Lightning puts them."""

from leyden.distributed.rank_zero import LightningDeprecationWarning, WarningCache, rank_zero_deprecation, rank_zero_warn
from leyden.errors import PossibleUserWarning, disable_possible_user_warnings

__all__ = [
    "LightningDeprecationWarning",
    "PossibleUserWarning",
    "WarningCache",
    "disable_possible_user_warnings",
    "rank_zero_deprecation",
    "rank_zero_warn",
]
