"""What training changes in a module and its ``state_dict`` does not hold: buffers that are not persistent, frozen parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Drift:
    """How a module stood when the fit began, and what is otherwise now. Only that stands in a file: the rest is the command's."""

    def __init__(self, module: nn.Module) -> None:
        self.buffers = {name: _digest(buffer) for _, _, name, buffer in _unkept(module)}
        self.trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}

    def state_dict(self, module: nn.Module) -> dict[str, Any]:
        """What is otherwise now, by name."""
        buffers = {
            name: buffer
            for _, _, name, buffer in _unkept(module)
            if (digest := _digest(buffer)) is None or digest != self.buffers.get(name)
        }
        trained = {
            name: parameter.requires_grad
            for name, parameter in module.named_parameters()
            if self.trained.get(name, parameter.requires_grad) != parameter.requires_grad
        }
        return {"buffers": buffers, "trained": trained}

    def load_state_dict(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Bring the module where it was."""
        for owner, own_name, name, buffer in list(_unkept(module)):
            value = state["buffers"].get(name)
            if value is None:
                continue
            if value.shape == buffer.shape and value.dtype == buffer.dtype and _is_writable(buffer):
                with torch.no_grad():
                    buffer.copy_(value)
            else:
                owner._buffers[own_name] = value.to(buffer.device)
        for name, parameter in module.named_parameters():
            if name in state["trained"]:
                parameter.requires_grad_(state["trained"][name])


def _digest(buffer: Tensor) -> bytes | None:
    """Of its shape and bits; ``None`` where they cannot be read."""
    try:
        bits = buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without values
        return None
    return hashlib.blake2b(bits.data, key=repr((buffer.dtype, tuple(buffer.shape))).encode()[:64]).digest()


def _is_writable(buffer: Tensor) -> bool:
    return not buffer.is_inference() and 0 not in buffer.stride()


def _unkept(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """Buffers that are not persistent: their module, their name in it, and in the whole."""
    for prefix, child in module.named_modules():
        for name in sorted(child._non_persistent_buffers_set):
            buffer = child._buffers.get(name)
            if buffer is not None and not hasattr(child, "_defaults"):  # torchmetrics' are kept as such
                yield child, name, f"{prefix}.{name}" if prefix else name, buffer
