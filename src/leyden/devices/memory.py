"""Memory: what an error says about it, and how to free it."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import Tensor

from leyden.devices.accelerators import get_nvidia_gpu_stats
from leyden.tree import tree_map

_OUT_OF_MEMORY = (
    *("CUDA out of memory", "CUDA error: out of memory", "HIP out of memory", "MPS backend out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    *("can't allocate memory", "not enough memory: you tried to allocate"),
)


def is_oom_error(exception: BaseException) -> bool:
    """Whether ``exception`` says that memory ran out, the device's or the machine's."""
    if isinstance(exception, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(exception, RuntimeError) and any(text in str(exception) for text in _OUT_OF_MEMORY)


def is_cuda_out_of_memory(exception: BaseException) -> bool:
    """Whether it says that a GPU's memory ran out."""
    return isinstance(exception, RuntimeError) and "CUDA" in str(exception) and "out of memory" in str(exception)


def is_cudnn_snafu(exception: BaseException) -> bool:
    """Whether it is the error that cuDNN raises where memory ran out."""
    return isinstance(exception, RuntimeError) and "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED." in str(exception)


def is_out_of_cpu_memory(exception: BaseException) -> bool:
    """Whether it says that the machine's memory ran out."""
    return isinstance(exception, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(exception)


def get_gpu_memory_map() -> dict[str, float]:
    """MB in use on each GPU, ``gpu_0`` ..., as ``nvidia-smi`` says. Raises :class:`DeviceUnavailable` without it."""
    return {f"gpu_{index}": get_nvidia_gpu_stats(index)["memory.used (MB)"] for index in range(torch.cuda.device_count())}


def get_memory_profile(mode: str) -> dict[str, float]:
    """:func:`get_gpu_memory_map`; with ``"min_max"`` its least and greatest alone, as ``min_gpu_mem`` and ``max_gpu_mem``."""
    found = get_gpu_memory_map()
    if mode != "min_max" or not found:
        return found
    return {"min_gpu_mem": min(found.values()), "max_gpu_mem": max(found.values())}


def garbage_collection_cuda() -> None:
    """Collect what nobody holds any more, and give its memory back to the devices."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def recursive_detach(in_dict: Any, to_cpu: bool = False) -> Any:
    """``in_dict``, in any structure, with every tensor in it detached, and on the CPU if asked. What is given is not changed."""
    return tree_map(in_dict, Tensor, lambda tensor: tensor.detach().cpu() if to_cpu else tensor.detach())
