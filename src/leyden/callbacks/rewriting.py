"""Callbacks that put other weights into the module than training's own, and which of them do not go together."""

from __future__ import annotations

from copy import deepcopy

import torch

from leyden.callback import Callback
from leyden.checked import check_count
from leyden.errors import ConflictingOptions, DeviceUnavailable, InvalidOption, InvalidType, Unsupported
from leyden.hooks import overrides
from leyden.module import LightningModule
from leyden.state.run import Run

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


def copy_of(module: LightningModule, callback: Callback) -> LightningModule:
    """A copy in which ``callback`` keeps an average. Raises :class:`Unsupported` where none can be made."""
    try:
        return deepcopy(module)
    except Exception as error:
        text = next(iter(str(error).splitlines()), type(error).__name__)
        raise Unsupported(
            f"{type(callback).__name__} keeps a copy of the module, and {type(module).__name__} cannot be copied by "
            f"copy.deepcopy: {text} Give it a __deepcopy__, or make what cannot be copied after fit has begun."
        ) from error


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
