"""CUDA devices, where Lightning puts them."""

from leyden.devices.accelerators import CUDAAccelerator, find_usable_cuda_devices, get_nvidia_gpu_stats

__all__ = ["CUDAAccelerator", "find_usable_cuda_devices", "get_nvidia_gpu_stats"]
