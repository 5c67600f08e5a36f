"""Count floating-point operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def measure_flops(model: nn.Module, forward_fn: Callable[[], Any], loss_fn: Callable[[Any], Tensor] | None = None) -> int:
    """Operations of one ``forward_fn()``, and of its backward where ``loss_fn`` makes a loss of what it returns."""
    with FlopCounterMode(display=False) as counter:
        returned = forward_fn()
        if loss_fn is not None:
            loss_fn(returned).backward()
    return int(counter.get_total_flops())
