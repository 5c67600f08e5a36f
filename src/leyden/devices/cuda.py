"""What CUDA has to be told through the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED_WORKSPACE = ":4096:8"
_ASKED_OF_THE_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"


def prepare_deterministic() -> None:
    """On a machine with a GPU, let cuBLAS be deterministic from here on.

    PyTorch asks once, at the process's first product of matrices on a GPU, and that may come before the first verb.
    """
    if torch.cuda.device_count():
        os.environ.setdefault(CUBLAS_VARIABLE, _FIXED_WORKSPACE)


@contextmanager
def fixed_workspace() -> Iterator[None]:
    """Within, cuBLAS is told to be deterministic; without it its results may vary."""
    with _set(CUBLAS_VARIABLE, _FIXED_WORKSPACE):
        yield


@contextmanager
def cuda_not_begun() -> Iterator[None]:
    """Within, PyTorch asks the driver whether there is a GPU, and does not begin CUDA: a process can still be forked."""
    with _set(_ASKED_OF_THE_DRIVER, "1"):
        yield


@contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    """Unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
