"""Rank zero and exchanges between processes, where 0.7 to 1.9 had them."""

from torch.distributed import ReduceOp, group

from leyden.classic.tools import (
    all_gather_ddp_if_available,
    distributed_available,
    gather_all_tensors,
    sync_ddp,
    sync_ddp_if_available,
)
from leyden.classic.tools import distributed_available as _distributed_is_initialized
from leyden.distributed.rank_zero import rank_zero_debug, rank_zero_deprecation, rank_zero_info, rank_zero_only, rank_zero_warn

__all__ = [
    "ReduceOp",
    "_distributed_is_initialized",
    "all_gather_ddp_if_available",
    "distributed_available",
    "gather_all_tensors",
    "group",
    "rank_zero_debug",
    "rank_zero_deprecation",
    "rank_zero_info",
    "rank_zero_only",
    "rank_zero_warn",
    "sync_ddp",
    "sync_ddp_if_available",
]
