"""Memory: what an error says about it, and how to free it."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from leyden.tree import tree_map

_OUT_OF_MEMORY = (
    "CUDA out of memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED",
    "can't allocate memory",
)


def is_oom_error(exception: BaseException) -> bool:
    """Whether ``exception`` says that memory ran out, the device's or the machine's."""
    if isinstance(exception, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exception, RuntimeError) and any(text in str(exception) for text in _OUT_OF_MEMORY)


def garbage_collection_cuda() -> None:
    """Collect what nobody holds any more, and give its memory back to the devices."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def recursive_detach(in_dict: Mapping[str, Any], to_cpu: bool = False) -> dict[str, Any]:
    """``in_dict`` with every tensor in it detached, and on the CPU if asked. Raises nothing; the dict given is not changed."""
    detached: dict[str, Any] = tree_map(
        dict(in_dict), Tensor, lambda tensor: tensor.detach().cpu() if to_cpu else tensor.detach()
    )
    return detached
