"""The hyper-parameters that a run's loggers get: those of its datamodule and those of its module, as one."""

from __future__ import annotations

from typing import Any

from leyden.errors import ConflictingOptions
from leyden.hparams import as_plain, assigned_hparams
from leyden.tree import same_bits


def merged_hparams(*owners: Any) -> Any:
    """What ``owners`` have saved and not kept from loggers; what one assigned to ``self.hparams`` itself, where none came before.

    Raises :class:`ConflictingOptions` where two have saved other values under one name.
    """
    merged: Any = {}
    for owner in owners:
        if owner is None or not getattr(owner, "_log_hyperparams", True):
            continue
        initial = as_plain(owner.hparams_initial)
        clashing = [key for key in initial if key in merged and not _same(merged[key], initial[key])]
        if clashing:
            raise ConflictingOptions(
                f"The datamodule and the module both save the hyper-parameters {clashing}, with different values, and a "
                f"logger can keep one. Rename one, or save with logger=False."
            )
        assigned = assigned_hparams(owner)
        merged = {**merged, **initial} if merged or assigned is None else assigned
    return merged


def _same(first: Any, second: Any) -> bool:
    try:
        return bool(first == second) or same_bits(first, second)
    except (ValueError, RuntimeError):  # of tensors and arrays, which compare number by number
        return same_bits(first, second)
