"""Parameters that a module holds under several names: find them, and tie them again."""

from __future__ import annotations

from torch import nn


def find_shared_parameters(module: nn.Module) -> list[list[str]]:
    """The names of each parameter that has more than one, such as tied input and output embeddings."""
    names: dict[nn.Parameter, list[str]] = {}
    for prefix, child in module.named_modules(remove_duplicate=False):
        for name, parameter in child.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{prefix}.{name}" if prefix else name
            found = names.setdefault(parameter, [])
            if full not in found:
                found.append(full)
    return [found for found in names.values() if len(found) > 1]


def set_shared_parameters(module: nn.Module, shared_params: list[list[str]]) -> nn.Module:
    """Tie again what :func:`find_shared_parameters` found: each list's first name gives the parameter. Returns ``module``."""
    for first, *others in shared_params:
        parameter = module.get_parameter(first)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(module.get_submodule(owner), attribute, parameter)
    return module
