"""A loss that goes into a checkpoint without its graph: its value, and what its backward would give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leyden.checkpoint.plain_names import named_parameters
from leyden.errors import CheckpointError


class _Carried(torch.autograd.Function):
    """A loss whose graph was left behind in another process: its value, and what its backward gives."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> tuple[Any, ...]:
        # what a scaler multiplies the loss with is a power of two, so nothing is rounded
        return None, None, *(gradient * incoming[0].to(gradient.dtype) for gradient in ctx.gradients)


def flow_of(loss: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """What ``loss.backward()`` would add to the gradients of ``module``'s parameters, by name. The graph stays.

    Raises RuntimeError where the graph is gone already, and :class:`CheckpointError` where parameters are in shards.
    """
    if any(hasattr(parameter, "placements") for parameter in module.parameters()):
        raise CheckpointError(
            "A checkpoint was asked for between forward and backward, and parameters in shards have no gradients of their own "
            "then. Save in on_train_batch_end, or later."
        )
    named = [(name, parameter) for name, parameter in named_parameters(module) if parameter.requires_grad]
    if not loss.requires_grad or not named:
        return {}
    with torch.enable_grad():
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named], retain_graph=True, allow_unused=True)
    reached: list[Tensor | None] = list(gradients)
    return {name: gradient for (name, _), gradient in zip(named, reached, strict=True) if gradient is not None}


def carried_loss(value: Tensor, flow: Mapping[str, Tensor], parameters: Iterable[tuple[str, nn.Parameter]]) -> Tensor:
    """A loss of this ``value`` whose backward adds ``flow`` to the parameters' gradients."""
    reached = [(parameter, flow[name]) for name, parameter in parameters if name in flow]
    if not reached:
        return value
    gradients = [gradient.to(parameter.device) for parameter, gradient in reached]
    device = reached[0][0].device
    loss: Tensor = _Carried.apply(value.to(device), gradients, *(parameter for parameter, _ in reached))  # type: ignore[no-untyped-call]  # torch has no types here
    return loss
