"""Rank zero, where Lightning's documents put it."""

from leyden.distributed.rank_zero import (
    LightningDeprecationWarning,
    WarningCache,
    rank_prefixed_message,
    rank_zero_debug,
    rank_zero_deprecation,
    rank_zero_info,
    rank_zero_only,
    rank_zero_warn,
)
from leyden.distributed.rank_zero import rank_of_environment as _get_rank

__all__ = [
    "LightningDeprecationWarning",
    "WarningCache",
    "_get_rank",
    "rank_prefixed_message",
    "rank_zero_debug",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
]
