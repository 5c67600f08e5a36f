"""Ids of devices, where 1.x had them."""

from leyden.classic.device_parser import (
    determine_root_gpu_device,
    is_cuda_available,
    num_cuda_devices,
    parse_cpu_cores,
    parse_gpu_ids,
)

__all__ = ["determine_root_gpu_device", "is_cuda_available", "num_cuda_devices", "parse_cpu_cores", "parse_gpu_ids"]
