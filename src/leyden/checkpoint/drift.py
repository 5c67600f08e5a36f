"""What training changes in a module and its ``state_dict`` does not hold: passing buffers, modes, numbers, what is frozen."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leyden.checkpoint.plain_names import named_parameters, plain_name


class Drift:
    """How a module stood when the fit began, and what is otherwise now. Only that stands in a file: the rest is the command's."""

    def __init__(self, module: nn.Module) -> None:
        self.buffers = {name: _digest(buffer) for _, _, name, buffer in _unkept(module)}
        self.trained = {name: parameter.requires_grad for name, parameter in _unpruned(module)}
        self.tracked = _tracked(module)
        self.modes = _modes(module, {})
        self.collected: Mapping[str, Any] = {}  # of a resumed run: see `leyden.checkpoint.collected`
        self.numbers = {key: _as_it_is(value) for key, value in _numbers(module).items()}

    def state_dict(self, module: nn.Module, modes: Mapping[nn.Module, bool] | None = None) -> dict[str, Any]:
        """What is otherwise now, by name. ``modes`` are training's, while something else has set others."""
        now = {name: buffer for _, _, name, buffer in _unkept(module)}
        digests = {name: _digest(buffer) for name, buffer in now.items()}
        changed = [name for name, digest in digests.items() if digest is None or digest != self.buffers.get(name)]
        buffers: dict[str, Tensor | None] = {name: now[name] for name in changed}
        buffers.update(dict.fromkeys(self.buffers.keys() - now.keys()))  # None: it is gone
        toggled = module.__dict__.get("_toggled", {})  # frozen for one optimizer's turn only
        required = {name: toggled.get(each, each.requires_grad) for name, each in _unpruned(module)}
        trained = {name: required[name] for name in required if self.trained.get(name, required[name]) != required[name]}
        tracked = {name: flag for name, flag in _tracked(module).items() if self.tracked.get(name, flag) != flag}
        moded = {name: mode for name, mode in _modes(module, modes or {}).items() if self.modes.get(name, mode) != mode}
        numbers = {key: value for key, value in _numbers(module).items() if _differs(value, self.numbers.get(key))}
        return {"buffers": buffers, "trained": trained, "tracked": tracked, "modes": moded, "numbers": numbers}

    def load_state_dict(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Bring the module where it was."""
        owners = {plain_name(name): child for name, child in module.named_modules()}
        device = next((tensor.device for tensor in [*module.parameters(), *module.buffers()]), None)
        for name, value in state["buffers"].items():
            prefix, _, own_name = name.rpartition(".")
            owner = owners.get(prefix)
            if owner is None:
                continue
            buffer = owner._buffers.get(own_name)
            if buffer is not None and value is not None and _takes(buffer, value):
                with torch.no_grad():
                    buffer.copy_(value)
            elif own_name in owner._buffers:
                owner._buffers[own_name] = None if value is None else value.to(device if buffer is None else buffer.device)
            elif value is not None and not hasattr(owner, own_name):  # training's first step makes it
                owner.register_buffer(own_name, value.to(device), persistent=False)
        for name, parameter in _unpruned(module):
            if name in state["trained"]:
                parameter.requires_grad_(state["trained"][name])
        for name, flag in state.get("tracked", {}).items():  # files of 0.1.0 have none
            if name in owners:
                owners[name].track_running_stats = flag
        for name, mode in state.get("modes", {}).items():
            if name in owners and isinstance(mode, bool):
                owners[name].training = mode
        self.collected = {key: dict(own) for key, own in state.get("collected", {}).items()}
        here = _numbers(module)
        for key, value in state.get("numbers", {}).items():
            name, _, own_name = key.rpartition(".")
            held = here.get(key)
            if isinstance(value, float) and name in owners and isinstance(getattr(owners[name], own_name, 0.0), float):
                setattr(owners[name], own_name, value)
            elif isinstance(held, Tensor) and isinstance(value, Tensor) and _takes(held, value):
                setattr(owners[name], own_name, value.to(held.device))

    def take_collected(self) -> Mapping[str, Any]:
        """What the epoch had collected where the run was cut; once."""
        collected, self.collected = self.collected, {}
        return collected


def _unpruned(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters, by the names that they had before they were pruned, and have again afterwards."""
    ends = "_mask"
    masked = {plain_name(name).removesuffix(ends) for name, _ in module.named_buffers() if name.endswith(ends)}
    named = [(name, name.removesuffix("_orig"), parameter) for name, parameter in named_parameters(module)]
    return [(base if base in masked else name, parameter) for name, base, parameter in named]


def _tracked(module: nn.Module) -> dict[str, bool]:
    """Whether each normalisation keeps running statistics in training, by its name."""
    return {
        plain_name(name): child.track_running_stats
        for name, child in module.named_modules()
        if isinstance(getattr(child, "track_running_stats", None), bool)
    }


def _modes(module: nn.Module, known: Mapping[nn.Module, bool]) -> dict[str, bool]:
    """Which submodules are in train mode, by name; of those in ``known`` what that says."""
    return {plain_name(name): known.get(child, child.training) for name, child in module.named_modules()}


def _numbers(module: nn.Module) -> dict[str, float | Tensor]:
    """Plain attributes that a step computes with: numbers with a fraction, such as a dropout's ``p``, and tensors; by name.

    Others are not kept. Whole numbers, flags and lists often tell of something that is not kept either.
    """
    return {
        f"{plain_name(name)}.{own}": value
        for name, child in module.named_modules()
        if not hasattr(child, "_defaults")  # torchmetrics' are kept as such
        for own, value in vars(child).items()
        if (type(value) is float or (type(value) is Tensor and not value.requires_grad))
    }


def _as_it_is(value: float | Tensor) -> Any:
    """What tells later whether a number was changed, without its values."""
    return value if isinstance(value, float) else (weakref.ref(value), _version(value), value.shape, value.dtype)


def _differs(value: float | Tensor, then: Any) -> bool:
    """Whether a number is another than at the beginning. What was of another kind or shape then is not followed."""
    if isinstance(value, float):
        return then is None or (isinstance(then, float) and then != value)
    if not isinstance(then, tuple) or then[2:] != (value.shape, value.dtype):
        return False
    return then[0]() is not value or then[1] != _version(value)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _digest(buffer: Tensor) -> bytes | None:
    """Of its shape and bits; ``None`` where they cannot be read."""
    try:
        bits = buffer.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without values
        return None
    return hashlib.blake2b(bits.data, key=repr((buffer.dtype, tuple(buffer.shape))).encode()[:64]).digest()


def _takes(buffer: Tensor, value: Tensor) -> bool:
    alike = value.shape == buffer.shape and value.dtype == buffer.dtype
    return alike and not buffer.is_inference() and 0 not in buffer.stride()


def _unkept(module: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """Buffers that are not persistent: their module, their name in it, and in the whole."""
    for prefix, child in ((plain_name(name), child) for name, child in module.named_modules()):
        for name in sorted(child._non_persistent_buffers_set):
            buffer = child._buffers.get(name)
            if buffer is not None and not hasattr(child, "_defaults"):  # torchmetrics' are kept as such
                yield child, name, f"{prefix}.{name}" if prefix else name, buffer
