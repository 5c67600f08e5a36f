"""What 1.x asked of devices: ids in what ``gpus=`` may be."""

from __future__ import annotations

from typing import Any

import torch

from leyden.devices.accelerators import CPUAccelerator, CUDAAccelerator, parse_gpus


def parse_gpu_ids(gpus: Any) -> list[int] | None:
    """The indices of the GPUs that ``gpus=`` asks for; ``None`` for the CPU. Raises as the Trainer does."""
    asked = parse_gpus(gpus)
    return None if asked["accelerator"] == "cpu" else CUDAAccelerator.parse_devices(asked["devices"])


def parse_cpu_cores(cpu_cores: int | str) -> int:
    """The number of processes that ``devices=`` asks for on the CPU."""
    return CPUAccelerator.parse_devices(cpu_cores)


def determine_root_gpu_device(gpus: list[int] | None) -> int | None:
    """The first of some GPUs."""
    return gpus[0] if gpus else None


def num_cuda_devices() -> int:
    """How many CUDA devices there are."""
    return torch.cuda.device_count()


def is_cuda_available() -> bool:
    """Whether there is one."""
    return num_cuda_devices() > 0
