"""Memory, where Lightning's documents put it."""

from leyden.devices.memory import (
    garbage_collection_cuda,
    get_gpu_memory_map,
    get_memory_profile,
    is_cuda_out_of_memory,
    is_cudnn_snafu,
    is_oom_error,
    is_out_of_cpu_memory,
    recursive_detach,
)

__all__ = [
    "garbage_collection_cuda",
    "get_gpu_memory_map",
    "get_memory_profile",
    "is_cuda_out_of_memory",
    "is_cudnn_snafu",
    "is_oom_error",
    "is_out_of_cpu_memory",
    "recursive_detach",
]
