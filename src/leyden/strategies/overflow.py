"""Whether scaled gradients overflowed that are in shards: on one process is on all, or some alone would leave the step out."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from leyden.distributed.processes import Processes
from leyden.strategies.shards import local


def heed_overflow(scaler: torch.amp.GradScaler, processes: Processes) -> None:
    """Let ``scaler`` look at the shards of each gradient, by whichever mesh it is shared out, and at whole ones among them.

    PyTorch's own looks at gradients of one mesh only, and lets the first of them say between which processes that is agreed on.
    A scaler that has a way of its own keeps it.
    """
    if type(scaler)._unscale_grads_ is torch.amp.GradScaler._unscale_grads_:
        vars(scaler)["_unscale_grads_"] = partial(_unscaled, processes)


@torch.no_grad()
def _unscaled(
    processes: Processes, optimizer: Any, inverse: Tensor, overflowed: Tensor, allow_fp16: bool
) -> dict[torch.device, Tensor]:
    """Multiply the gradients by ``inverse``; for a device, whether one of them was not finite, on any process."""
    of_kind: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for group in optimizer.param_groups:
        for gradient in (local(each.grad) for each in group["params"] if each.grad is not None):
            if gradient.dtype is torch.float16 and not allow_fp16:
                raise ValueError("Attempting to unscale FP16 gradients.")
            gradient = gradient._values() if gradient.is_sparse else gradient
            of_kind.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    found = [overflowed]
    for (device, _), gradients in of_kind.items():
        found.append(overflowed.to(device, copy=True))
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found[-1], inverse.to(device))
    worst = torch.stack([each.to(inverse.device) for each in found]).amax(0)
    return {inverse.device: processes.all_reduce(worst, "max")}
