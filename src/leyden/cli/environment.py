"""What a bug report needs to know of a machine: versions, devices, the operating system. No name, no path, no secret."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata

import numpy
import torch

from leyden.version import __version__

_PACKAGES = (
    *("fsspec", "rich", "packaging", "lightning", "pytorch-lightning", "torchmetrics", "tensorboard", "wandb", "mlflow"),
    *("comet-ml", "jsonargparse", "omegaconf", "safetensors", "onnx", "onnxruntime", "tqdm", "torchvision", "torchaudio"),
)
_VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("PYTORCH_CUDA_ALLOC_CONF", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"),
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "PYTHONHASHSEED", "NCCL_DEBUG", "NCCL_P2P_DISABLE", "TORCH_LOGS"),
)


def show() -> None:
    """Print it, a line each."""
    for name, value in facts():
        print(f"{name:<18}{value}")


def facts() -> Iterator[tuple[str, str]]:
    """Names and values."""
    yield "leyden", __version__
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "torch", f"{torch.__version__}{' (debug)' if torch.version.debug else ''}"
    yield "numpy", numpy.__version__
    for package in _PACKAGES:
        try:
            yield package, metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    libc = " ".join(platform.libc_ver())
    if libc.strip():
        yield "libc", libc
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "processor", f"{os.cpu_count()} cores, {usable} usable; torch uses {torch.get_num_threads()} threads"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield "memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    yield from _devices()
    for variable in _VARIABLES:
        if variable in os.environ:
            yield variable, os.environ[variable]


def _devices() -> Iterator[tuple[str, str]]:
    if torch.cuda.is_available():
        yield "cuda", f"{torch.version.cuda or torch.version.hip}, cudnn {torch.backends.cudnn.version()}"
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            capability = f"{device.major}.{device.minor}"
            yield f"cuda:{index}", f"{device.name}, {device.total_memory / 2**30:.1f} GiB, compute capability {capability}"
    else:
        yield "cuda", "none" if torch.version.cuda is None else f"none (torch was built for {torch.version.cuda})"
    if torch.backends.mps.is_available():
        yield "mps", "available"


def cli_lightning_logo() -> None:
    """Print name and version between two empty lines, where programs of Lightning's print its logo."""
    print(f"\nleyden {__version__}\n")
