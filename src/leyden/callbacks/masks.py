"""The masks and the values of pruned parameters: taken for a file, put back, made one over processes, made ordinary again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from leyden.strategies.shards import synchronise

Pair = tuple[nn.Module, str]
"""A layer, and what its parameter is called there."""


def parameter_of(module: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter itself, also where it is pruned."""
    found = module._parameters.get(f"{name}_orig") if is_pruned(module, name) else module._parameters.get(name)
    return found if isinstance(found, nn.Parameter) else None


def is_pruned(module: nn.Module, name: str) -> bool:
    return f"{name}_mask" in module._buffers


def taken(targets: Mapping[str, Pair], seen: Mapping[str, Tensor], all_of_them: bool = False) -> dict[str, Any]:
    """The mask and the values of each pruned parameter, by its name; ``None`` for the mask of one that is not pruned.

    PyTorch decides what to prune by what the last forward computed with: where a step was taken since, that is taken too. It is
    what a file has ``seen``, where no training has begun.
    """
    found = {}
    for target, (module, name) in targets.items():
        tensor, mask = parameter_of(module, name), module._buffers.get(f"{name}_mask")
        if tensor is not None and (mask is not None or all_of_them):
            own = found[target] = {"mask": mask, "orig": tensor.detach(), "seen": seen.get(target)}
            if mask is not None and target not in seen:
                computed = getattr(module, name).detach()
                own["seen"] = None if torch.equal(computed, mask.to(tensor.dtype) * tensor.detach()) else computed
    return found


def put(targets: Mapping[str, Pair], kept: Mapping[str, Any]) -> None:
    """Let ``targets`` be as :func:`taken` has found them."""
    for target, (module, name) in targets.items():
        own = kept.get(target)
        if own is None:
            continue
        if own["mask"] is None:
            if is_pruned(module, name):
                prune.remove(module, name)
        elif is_pruned(module, name):
            module._buffers[f"{name}_mask"].data.copy_(own["mask"])  # type: ignore[union-attr]  # a mask is a tensor
        else:
            tensor = parameter_of(module, name)
            assert tensor is not None
            prune.custom_from_mask(module, name, own["mask"].to(tensor.device))
        tensor = parameter_of(module, name)
        if own["orig"] is not None and tensor is not None:
            tensor.data.copy_(own["orig"])
        recompute(module, name)


def go_on_with(targets: Mapping[str, Pair], seen: Mapping[str, Tensor]) -> None:
    """Training begins: let the layers compute with what a file has ``seen``, the others with their parameters as they are."""
    for target, (module, name) in targets.items():
        if target not in seen:
            recompute(module, name)
        elif is_pruned(module, name):
            setattr(module, name, seen[target].to(getattr(module, name).device))


def make_one(pairs: Iterable[Pair]) -> None:
    """All processes go on with what the first one has drawn: which values are pruned, and new ones."""
    pruned = [(module, name) for module, name in pairs if is_pruned(module, name)]
    synchronise(getattr(module, part) for module, name in pruned for part in (f"{name}_orig", f"{name}_mask", name))


def counts(pairs: Iterable[Pair]) -> list[tuple[int, int]]:
    """Of each parameter: how many of its values are pruned, and how many there are. Waits for the device."""
    found = []
    for module, name in pairs:
        mask, tensor = module._buffers.get(f"{name}_mask"), parameter_of(module, name)
        found.append((0 if mask is None else int((mask == 0).sum()), 0 if tensor is None else tensor.numel()))
    return found


def recompute(module: nn.Module, name: str) -> None:
    """What the module computes with, of a parameter and a mask that have changed."""
    for hook in _hooks_of(module):
        if hook._tensor_name == name:
            setattr(module, name, hook.apply_mask(module))


def copied(layer: nn.Module) -> nn.Module:
    for hook in _hooks_of(layer):  # what it computed has a graph, which cannot be copied
        setattr(layer, hook._tensor_name, getattr(layer, hook._tensor_name).detach())
    return deepcopy(layer)


def make_ordinary(module: nn.Module) -> None:
    """Make every pruned parameter in ``module`` an ordinary one again, with its zeros."""
    for each in module.modules():
        for hook in _hooks_of(each):
            prune.remove(each, hook._tensor_name)


def _hooks_of(layer: nn.Module) -> list[Any]:
    return [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, prune.BasePruningMethod)]


def cloned(kept: Mapping[str, Any]) -> dict[str, Any]:
    return {
        target: {part: None if value is None else value.clone() for part, value in own.items()} for target, own in kept.items()
    }


def as_ordinary(state: Mapping[str, Any]) -> dict[str, Any]:
    """A pruned module's ``state_dict``, as it is once pruning is permanent; on the CPU."""
    made: dict[str, Any] = {}
    for name, value in state.items():
        base = name.removesuffix("_orig").removesuffix("_mask")
        mask, original = state.get(f"{base}_mask"), state.get(f"{base}_orig")
        if name != base and mask is not None and original is not None:
            made[base] = (mask.to(original.dtype) * original).cpu()
        else:
            made[name] = value.cpu() if isinstance(value, Tensor) else value
    return made
