"""Norms of gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leyden.errors import InvalidOption


def grad_norm(module: nn.Module, norm_type: float | int | str, group_separator: str = "/") -> dict[str, Tensor]:
    """The ``norm_type``-norm of each parameter's gradient, and of all together, as 0-dim tensors.

    Names are ``grad_{p}_norm/{parameter}`` and ``grad_{p}_norm_total``. Parameters without a gradient are left out.
    Raises :class:`InvalidOption` for a norm that is not positive.
    """
    power = float(norm_type)
    if power <= 0:
        raise InvalidOption("norm_type", norm_type, "a positive number, or 'inf'")
    norms = {
        f"grad_{power}_norm{group_separator}{name}": torch.linalg.vector_norm(parameter.grad.detach(), power)
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
    if norms:
        norms[f"grad_{power}_norm_total"] = torch.linalg.vector_norm(torch.stack(list(norms.values())), power)
    return norms
