"""Gradients that no engine's backward has exchanged: one exchange for all of a kind."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leyden.distributed.processes import Processes


def average_gradients(processes: Processes, parameters: Sequence[Tensor]) -> None:
    """Make the gradients of ``parameters`` the mean over ``processes``, with zeros where one has none.

    Where no process has one, there stays none, and the parameter is left out of the step.
    """
    for kind in dict.fromkeys((each.dtype, each.device) for each in parameters):
        alike = [each for each in parameters if (each.dtype, each.device) == kind]
        with torch.no_grad():
            has = alike[0].new_tensor([each.grad is not None for each in alike])
            mine = [torch.zeros_like(each) if each.grad is None else each.grad.to_dense() for each in alike]
            packed = processes.all_reduce(torch.cat([has, *(each.reshape(-1) for each in mine)])) / processes.world
            counts, *parts = packed.split([len(alike), *(each.numel() for each in alike)])
            for parameter, count, part in zip(alike, counts, parts, strict=True):
                if parameter.grad is not None and parameter.grad.layout is torch.strided:
                    parameter.grad.copy_(part.view_as(parameter))  # an engine's buffer may be behind it
                elif count:
                    parameter.grad = part.view_as(parameter)
