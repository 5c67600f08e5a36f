"""Callbacks that put other weights into the module than training's own, and which of them do not go together."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from leyden.callback import Callback
from leyden.checked import check_count
from leyden.errors import ConflictingOptions, DeviceUnavailable, InvalidOption, InvalidType, Unsupported
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.state.run import Run
from leyden.strategies.shards import is_sharded

AVERAGES, PRUNES = "averages the weights", "prunes them"


def deed_of(callback: object) -> str | None:
    """What ``callback`` does to the weights: its class says so in ``leyden_rewrites``."""
    deed = getattr(type(callback), "leyden_rewrites", None)
    return deed if deed in (AVERAGES, PRUNES) else None


def refuse_beside(trainer: Run, callback: Callback) -> None:
    """Raise :class:`ConflictingOptions` where another callback of ``trainer`` rewrites the weights too."""
    mine = deed_of(callback)
    for other in trainer.callbacks:
        theirs = deed_of(other)
        if other is callback or theirs is None or mine == theirs == PRUNES:
            continue
        names = f"{type(callback).__name__} and {type(other).__name__}"
        if mine == theirs:
            raise ConflictingOptions(
                f"{names} both average the weights, and each would put its average in the place of the other's. Leave one out."
            )
        raise ConflictingOptions(
            f"{names} do not go together: pruning changes which parameters the module has, and an average needs the same ones "
            f"all the time. Prune in one fit and average in another."
        )


def copy_of(module: LightningModule, callback: Callback, formats: Mapping[str, torch.dtype] | None = None) -> nn.Module:
    """A copy in which ``callback`` keeps an average. Raises :class:`Unsupported` where none can be made.

    Of a module whose parameters are in shards it is made of this process's own, in a number format that holds ``formats`` too:
    those that the parameters had before the module was converted.
    """
    if any(map(is_sharded, module.parameters())):
        kept = _Shards(module, formats or {}, "", {})
        odd = sorted(set(module.state_dict()) ^ set(kept.state_dict()))
        if odd:
            raise Unsupported(
                f"{type(callback).__name__} averages parameters that are in shards by their names, and {odd[0]!r} is no "
                f"parameter or buffer of {type(module).__name__}, or not called so in its state_dict(). Use strategy='ddp'."
            )
        return kept
    try:
        return deepcopy(module)
    except Exception as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise Unsupported(
            f"{type(callback).__name__} keeps a copy of the module, and {type(module).__name__} cannot be copied by "
            f"copy.deepcopy: {text} Give it a __deepcopy__, or make what cannot be copied after fit has begun."
        ) from error


class _Shards(nn.Module):
    """What a module in shards is made of, by the same names: it can hold other values, and compute nothing."""

    def __init__(self, module: nn.Module, formats: Mapping[str, torch.dtype], prefix: str, made: dict[int, Any]) -> None:
        super().__init__()
        made[id(module)] = self
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in made:
                wide = torch.promote_types(parameter.dtype, formats.get(prefix + name, parameter.dtype))
                made[id(parameter)] = nn.Parameter(parameter.detach().to(wide, copy=True), parameter.requires_grad)
            self.register_parameter(name, None if parameter is None else made[id(parameter)])
        for name, buffer in module._buffers.items():
            kept_buffer = None if buffer is None else buffer.detach().clone()
            self.register_buffer(name, kept_buffer, persistent=name not in module._non_persistent_buffers_set)
        for name, child in module._modules.items():
            if child is not None and id(child) not in made:
                made[id(child)] = _Shards(child, formats, f"{prefix}{name}.", made)
            self.add_module(name, None if child is None else made[id(child)])


def formats_of(module: nn.Module) -> dict[str, torch.dtype]:
    """The number format of each parameter, by its name."""
    return {name: parameter.dtype for name, parameter in module.named_parameters(remove_duplicate=False)}


def read_device(device: object) -> torch.device | int | None:
    """A device as the user writes it; ``None`` stands for the module's."""
    expected = 'a device such as "cpu" or "cuda:0", or None for the module\'s own'
    if device is None or isinstance(device, torch.device):
        return device
    if isinstance(device, str):
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise InvalidOption("device", device, expected) from error
    if isinstance(device, bool) or not isinstance(device, int):
        raise InvalidType("device", device, expected)
    return check_count("device", device, 0, expected)


def require_device(device: torch.device | int | None, who: str) -> None:
    """Raise :class:`DeviceUnavailable` where this machine lacks it."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        text = next(iter(str(error).splitlines()), "")
        raise DeviceUnavailable(f'{who}(device={str(device)!r}): {text} Take device="cpu", or None.') from error


def is_built_late(module: LightningModule) -> bool:
    """Whether layers may be made in the module's own ``setup`` or ``configure_model``, after the callbacks' ``setup``."""
    return overrides(module, LightningModule.configure_model) or overrides(module, LightningModule.setup)
