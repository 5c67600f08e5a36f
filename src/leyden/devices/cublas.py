"""What cuBLAS has to be told for products of matrices that come out the same each time."""

from __future__ import annotations

import os

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"


def prepare_deterministic() -> None:
    """Let cuBLAS be deterministic, too. PyTorch asks once, at the process's first product of matrices on a GPU."""
    os.environ.setdefault(CUBLAS_VARIABLE, ":4096:8")
