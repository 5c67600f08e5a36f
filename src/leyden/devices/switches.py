"""PyTorch's process-wide switches, set while a verb runs and put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext

import torch

from leyden.devices.cuda import fixed_workspace
from leyden.options import Behaviour


@contextmanager
def torch_switches(behaviour: Behaviour) -> Iterator[None]:
    """Hold ``deterministic``, ``benchmark`` and ``detect_anomaly`` as asked; on exit all is as it was before."""
    with ExitStack() as switches:
        if behaviour.deterministic is not None:
            switches.enter_context(deterministic(behaviour.deterministic))
        benchmark = behaviour.benchmark
        if benchmark is None and behaviour.deterministic:
            benchmark = False  # benchmarking picks kernels by their time, which differs from run to run
        if benchmark is not None:
            switches.enter_context(cudnn_benchmark(benchmark))
        if behaviour.detect_anomaly:
            switches.enter_context(anomaly_detection())
        yield


@contextmanager
def deterministic(mode: bool | str) -> Iterator[None]:
    """Let PyTorch use deterministic kernels only: ``True`` raises where there is none, ``"warn"`` warns."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with fixed_workspace() if mode else nullcontext():
        torch.use_deterministic_algorithms(bool(mode), warn_only=mode == "warn")
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


@contextmanager
def cudnn_benchmark(enabled: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms and keep the fastest, or forbid it."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def anomaly_detection() -> Iterator[None]:
    """Let autograd raise at the operation whose gradient is NaN, with the forward call that it belongs to."""
    enabled, check_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.autograd.set_detect_anomaly(True)
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(enabled, check_nan)
